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

    def test_it_is_beside_the_interpreter_else_in_path_else_where_the_environment_says(self):
        beside, in_path, named = map(self.program, ("beside", "in_path", "named"))
        here = os.getcwd()
        with mock.patch.object(sysconfig, "get_path", return_value=os.path.join(here, "beside")):
            environment = {"PATH": os.path.join(here, "in_path"), "GRISTMILL_BINARY": named}
            with mock.patch.dict(os.environ, environment):
                for path in (beside, in_path, named):
                    self.assertEqual(_binary.find(), path)
                    os.remove(path)
                with self.assertRaises(gristmill.GristmillError) as caught:
                    _binary.find()
        self.assertIn("GRISTMILL_BINARY", caught.exception.hint)
        self.assertIsNone(caught.exception.exit_code)


if __name__ == "__main__":
    unittest.main()
