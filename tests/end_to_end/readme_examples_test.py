"""Runs the examples of README.md against a real server, as a reader would."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CACHE = Path(os.environ["QUERN_CACHE"])
BIN = Path(os.environ["QUERN_BIN"])
APPLE = CACHE / "samples/pictures/food/fruit/apple_red.png"
README_ADDRESS = "127.0.0.1:7070"


def examples() -> dict[str, str]:
    """The code blocks that follow ``<!-- example: NAME -->``, by name."""
    blocks = re.findall(r"<!-- example: (\S+) -->\n```\w+\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    return dict(blocks)


class ReadmeExamplesTest(unittest.TestCase):
    def setUp(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)
        shutil.copy(APPLE, self.folder / "apple.png")
        (self.folder / "proto").symlink_to(ROOT / "proto")
        self.server = subprocess.Popen(
            [BIN / "quernd", "--set", "server.address=127.0.0.1:0", "--set", "metrics.address=127.0.0.1:0",
             "--set", f"storage.path={self.folder}/data"],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.addCleanup(self.stop_server)
        ready = re.match(r"quernd ready address=(\S+)", self.server.stdout.readline())
        self.assertIsNotNone(ready, "the server did not start")
        self.address = ready.group(1)

    def stop_server(self) -> None:
        self.server.terminate()
        self.server.wait(timeout=60)
        self.server.stdout.close()

    def run_example(self, command: list[str], text: str) -> str:
        """Runs the text of an example and returns what it printed."""
        text = text.replace(README_ADDRESS, self.address).replace("~/.cache/quern", str(CACHE))
        environment = os.environ | {
            "PATH": f"{CACHE}/tools:{os.environ['PATH']}",
            # A proxy is for the network; the server is on this machine.
            "no_proxy": "127.0.0.1",
        }
        done = subprocess.run([*command, text], cwd=self.folder, env=environment, capture_output=True, text=True,
                              timeout=120)
        self.assertEqual(done.returncode, 0, f"{text}\n{done.stdout}\n{done.stderr}")
        return done.stdout

    def test_grpcurl_then_python(self) -> None:
        blocks = examples()
        printed = self.run_example(["bash", "-euo", "pipefail", "-c"], blocks["grpcurl"])
        self.assertIn('"model_fingerprint"', printed)
        self.assertIn('"created": true', printed)
        self.assertRegex(printed, r'"hits"[^$]*"id": "apple"[^$]*"shelf": 3')
        self.assertIn('"status": "SERVING"', printed)

        self.run_example(["bash", "-euo", "pipefail", "-c"], blocks["python-stubs"])
        printed = self.run_example([sys.executable, "-c"], blocks["python"])
        self.assertRegex(printed, r"^apple\.png stored\n0\.\d+ apple(\.png)?\n0\.\d+ apple(\.png)?\n$")


if __name__ == "__main__":
    unittest.main()
