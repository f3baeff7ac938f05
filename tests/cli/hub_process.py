"""The real command in processes of their own: a hub that runs, and commands that talk to it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from queue import Empty, Queue
from typing import Any, Self

POLYWIRE = str(Path(sys.executable).parent / "polywire")
BIN = str(Path(sys.executable).parent)
DEADLINE = 20.0


def environment(**given: str) -> dict[str, str]:
    """No settings of whoever runs the tests; the commands of this environment first on the path."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("POLYWIRE_")}
    path = f"{BIN}{os.pathsep}{clean.get('PATH', '')}"
    return {**clean, "PATH": path, "POLYWIRE_SQLITE_RESERVE_SIZE": "0", **given}


def polywire(
    *arguments: str, cwd: Path | None = None, stdin: bytes = b"", env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    ended = subprocess.run(
        [POLYWIRE, *arguments],
        cwd=cwd,
        input=stdin,
        env=environment(**(env or {})),
        capture_output=True,
        timeout=DEADLINE,
        check=False,
    )
    return subprocess.CompletedProcess(ended.args, ended.returncode, ended.stdout.decode(), ended.stderr.decode())


def last_line(text: str) -> str:
    return text.rstrip("\n").rpartition("\n")[2]


def until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < deadline, f"not in time: {what}"
        time.sleep(0.01)


class Process:
    """A command that goes on. Its lines are read as they come; `ended` kills it if it has not ended by itself."""

    def __init__(
        self,
        *command: str,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        stdin: int = subprocess.DEVNULL,
    ) -> None:
        self.process = subprocess.Popen(
            command,
            cwd=cwd,
            env=environment(**(env or {})),
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self.out: Queue[str | None] = Queue()
        self.err: list[str] = []
        self._readers = [threading.Thread(target=self._read_out), threading.Thread(target=self._read_err)]
        for reader in self._readers:
            reader.start()

    def _read_out(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.out.put(line.decode().rstrip("\r\n"))
        self.out.put(None)

    def _read_err(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.err.append(line.decode().rstrip("\n"))

    def line(self) -> str:
        """The next line of stdout. Fails where there is none in time."""
        try:
            line = self.out.get(timeout=DEADLINE)
        except Empty:
            raise AssertionError(f"no line came; stderr: {self.err}") from None
        assert line is not None, f"stdout ended; stderr: {self.err}"
        return line

    def line_with(self, text: str) -> str:
        while text not in (line := self.line()):
            pass
        return line

    def says(self, text: str) -> None:
        """Wait until stderr has it."""
        until(lambda: any(text in line for line in list(self.err)), f"{text!r} on stderr: {self.err}")

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        code = self.process.wait(DEADLINE)
        for reader in self._readers:
            reader.join(DEADLINE)
        return code

    def end(self) -> None:
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.wait()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()


class Hub(Process):
    """``polywire run --ready-json``, ready. ``url`` is where it listens."""

    def __init__(
        self, *arguments: str, data: Path, cwd: Path | None = None, env: Mapping[str, str] | None = None
    ) -> None:
        command = (POLYWIRE, "run", *arguments, "--ready-json", "--free-ports", "--data", str(data))
        super().__init__(*command, cwd=cwd or data.parent, env=env)
        try:
            self.ready: dict[str, Any] = json.loads(self.line())
        except BaseException:
            self.end()
            raise
        self.url: str = self.ready["wires"].get("http", "")
        self.key: str | None = None

    def polywire(
        self, *arguments: str, stdin: bytes = b"", code: int = 0, **env: str
    ) -> subprocess.CompletedProcess[str]:
        """A command of this hub that must end with ``code``."""
        known = {"POLYWIRE_URL": self.url, **({"POLYWIRE_KEY": self.key} if self.key else {}), **env}
        ended = polywire(*arguments, stdin=stdin, env=known)
        assert ended.returncode == code, (arguments, ended.stdout, ended.stderr)
        return ended

    def json(self, *arguments: str) -> Any:
        return json.loads(self.polywire(*arguments, "--json").stdout)

    def follow(self, *arguments: str) -> Process:
        return Process(POLYWIRE, "sub", "--url", self.url, *arguments)

    def stop(self) -> int:
        self.signal(signal.SIGTERM)
        return self.wait()
