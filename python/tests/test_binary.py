"""Where the program is looked for."""

import os
import stat
import sysconfig
import unittest
from unittest import mock

import gristmill
import support
from gristmill import _binary


class Find(support.InFolder):
    def program(self, folder):
        os.mkdir(folder)
        path = os.path.join(os.getcwd(), folder, "gristmill")
        with open(path, "w"):
            os.chmod(path, stat.S_IRWXU)
        return path

    def test_it_is_where_the_environment_says_else_beside_the_interpreter_else_in_path(self):
        beside, in_path, named = map(self.program, ("beside", "in_path", "named"))
        here = os.getcwd()
        with mock.patch.object(sysconfig, "get_path", return_value=os.path.join(here, "beside")):
            environment = {"PATH": os.path.join(here, "in_path"), "GRISTMILL_BINARY": named}
            with mock.patch.dict(os.environ, environment):
                self.assertEqual(_binary.find(), named)
                del os.environ["GRISTMILL_BINARY"]
                for path in (beside, in_path):
                    self.assertEqual(_binary.find(), path)
                    os.remove(path)
                with self.assertRaises(gristmill.GristmillError) as caught:
                    _binary.find()
        self.assertIn("GRISTMILL_BINARY", caught.exception.hint)
        self.assertIsNone(caught.exception.exit_code)

    def test_a_variable_that_names_no_program_is_told(self):
        folder = os.path.dirname(self.program("folder"))
        plain = os.path.abspath("plain")
        with open(plain, "w"):
            pass
        for path, what, hint in (
            (folder, "is a folder", f"set it to {os.path.join(folder, 'gristmill')}"),
            (os.getcwd(), "is a folder", "set it to the program itself"),
            (plain, "may not be executed", "unset it"),
            ("nowhere", "is not there", "unset it"),
        ):
            with mock.patch.dict(os.environ, GRISTMILL_BINARY=path), self.assertRaises(gristmill.GristmillError) as caught:
                _binary.find()
            self.assertIn("GRISTMILL_BINARY is set", caught.exception.message)
            self.assertIn(what, caught.exception.message)
            self.assertIn(hint, caught.exception.hint)


if __name__ == "__main__":
    unittest.main()
