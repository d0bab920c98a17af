"""What people see while they wait."""

import io
import sys
import types
import unittest
from unittest import mock

from gristmill import _progress

VIEW = {"total": 12_500, "done": 1_200, "failed": 3, "rate_per_s": 61.25, "eta_s": 185, "top_error": None}


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Notebook:
    """A stand-in for IPython in a kernel, which keeps what is shown."""

    def __init__(self):
        self.shown = []
        self.modules = {"IPython": types.SimpleNamespace(get_ipython=lambda: types.SimpleNamespace(kernel=self))}
        self.modules["IPython.display"] = types.SimpleNamespace(HTML=str, display=self.display)

    def display(self, html, display_id):
        self.shown.append(html)
        return types.SimpleNamespace(update=self.shown.append)


class Progress(unittest.TestCase):
    def test_a_line_says_what_counts(self):
        self.assertEqual(_progress.describe(VIEW), "1,200/12,500 done, 3 failed, 61.2/s, 3m05s to go")
        view = {"total": 9, "done": 9, "eta_s": 0, "top_error": "2 × Timeout: late\nmore", "waiting_for": None}
        self.assertEqual(_progress.describe(view), "9/9 done, 2 × Timeout: late")

    def test_a_terminal_has_one_line_that_is_cleared_at_the_end(self):
        for columns in ("80", "30"):
            with mock.patch.object(sys, "stderr", Terminal()) as stderr, mock.patch.dict("os.environ", COLUMNS=columns):
                with _progress.shown(None) as show:
                    show(VIEW)
                    show({**VIEW, "done": 12_500, "failed": 0})
            *_, last, cleared, _ = stderr.getvalue().split("\r")
            self.assertTrue(last.startswith("━" * 24), last)
            self.assertLess(max(map(len, stderr.getvalue().split("\r"))), int(columns))
            self.assertEqual(cleared.strip(), "")

    def test_a_notebook_has_one_bar_that_is_updated(self):
        notebook = Notebook()
        with mock.patch.dict(sys.modules, notebook.modules), _progress.shown(None) as show:
            show(VIEW)
            show({**VIEW, "top_error": "<b>"})
        self.assertEqual(len(notebook.shown), 2)
        self.assertIn('value="1200" max="12500"', notebook.shown[0])
        self.assertIn("&lt;b&gt;", notebook.shown[1])

    def test_nobody_is_shown_nothing(self):
        with mock.patch.object(sys, "stderr", io.StringIO()), _progress.shown(None) as show:
            self.assertIsNone(show)
        with mock.patch.object(sys, "stderr", Terminal()), _progress.shown(False) as show:
            self.assertIsNone(show)


if __name__ == "__main__":
    unittest.main()
