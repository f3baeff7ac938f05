"""A Django view that publishes to a hub in another process. Run both: polywire run, and python app.py runserver 8080"""

import json
import os
import sys

import requests
from django.conf import settings
from django.core.management import execute_from_command_line
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, JsonResponse
from django.urls import path
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST

HUB = os.environ.get("POLYWIRE_URL", "http://127.0.0.1:8000")

# One file instead of a project: these stand in settings.py else.
settings.configure(ALLOWED_HOSTS=["127.0.0.1"], ROOT_URLCONF=__name__, SECRET_KEY=os.urandom(32).hex())


@csrf_exempt
@require_POST
def order(request: HttpRequest) -> JsonResponse:
    """Answer once the order is stored in the hub's log."""
    fields = json.loads(request.body)
    answer = requests.post(
        f"{HUB}/topics/orders", json=fields, headers={"Idempotency-Key": str(fields["number"])}, timeout=10
    )
    answer.raise_for_status()
    return JsonResponse({"id": answer.json()["id"]}, status=201)


urlpatterns = [path("orders", order)]
application = get_wsgi_application()

if __name__ == "__main__":
    execute_from_command_line(sys.argv)
