"""Every snippet of docs/python.md runs, in its order."""

import contextlib
import io
import os
import re
import unittest

import support


class Docs(support.InFolder):
    def test_every_snippet_runs(self):
        base_url = self.simulator()
        os.environ.update(OPENAI_BASE_URL=base_url, OPENAI_API_KEY="sk-test")
        with open(os.path.join(support.REPOSITORY, "docs", "python.md"), encoding="utf-8") as file:
            snippets = re.findall(r"^```python\n(.*?)^```", file.read(), re.MULTILINE | re.DOTALL)
        names = {}
        said = []
        for number, snippet in enumerate(snippets):
            if "gristmill.submit(" in snippet:
                self.start("worker", "--model", "gpt-4o-mini")
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                exec(compile(snippet, f"docs/python.md, snippet {number + 1}", "exec"), names)
            said.append(out.getvalue())
        self.assertEqual(len(snippets), 8)
        self.assertIn("row-1 ", said[0])
        self.assertIn("colours", said[2])
        self.assertIn("row-2 succeeded\n", said[3])
        self.assertRegex(said[5], r"\w\n?\d+\n$|\.\d+\n$")
        self.assertRegex(said[6], r"^400 openai \S+ None BadRequestError\n$")
        self.assertIn("there is no batch `no-such-batch`", said[7])


if __name__ == "__main__":
    unittest.main()
