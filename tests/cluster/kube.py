"""kubectl, and waiting for what it shows."""

import json
import subprocess
import time


class Failed(Exception):
    """A command failed, or something did not come to pass."""


def run(*command, stdin=None, check=True, env=None, timeout=300):
    """Runs a command; returns what it printed."""
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, env=env, timeout=timeout, check=False)
    if check and done.returncode:
        raise Failed(f"{' '.join(map(str, command))[:200]}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def kubectl(*arguments, **more):
    return run("kubectl", *arguments, **more)


def apply(*objects):
    """Applies objects given as dictionaries."""
    kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)}))


def get(*arguments):
    return json.loads(kubectl("get", *arguments, "-o", "json"))


def render(text):
    """YAML to dictionaries, by kubectl."""
    done = kubectl("create", "--dry-run=client", "--validate=false", "-o", "json", "-f", "-", stdin=text)
    decoder, objects = json.JSONDecoder(), []
    while done := done.lstrip():
        found, end = decoder.raw_decode(done)
        objects += found["items"] if found["kind"] == "List" else [found]
        done = done[end:]
    return objects


def until(what, seconds, check):
    """Waits until `check` gives something true; returns that, and the seconds it took."""
    start = time.monotonic()
    reason = None
    while True:
        try:
            if answer := check():
                return answer, time.monotonic() - start
        except (Failed, ValueError, KeyError, IndexError) as error:
            reason = error
        if time.monotonic() - start > seconds:
            raise Failed(f"not within {seconds} s: {what}" + (f" ({reason})" if reason else ""))
        time.sleep(0.2)
