-- What wrk sends: one small message.
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = '{"sensor":"greenhouse-7","celsius":21.5,"at":"2026-11-20T10:00:00Z"}'
