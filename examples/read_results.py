#!/usr/bin/env python3
"""Reads the results of an OpenAI Batch, as its guide does: the same program reads Gristmill's output.

Usage: python3 read_results.py out.jsonl [out.errors.jsonl]
"""

import json
import sys


def read(path):
    """Yields the custom_id, the text and the error of each line."""
    with open(path, encoding="utf-8") as lines:
        for line in lines:
            result = json.loads(line)
            response, error = result["response"], result["error"]
            if error is not None:  # Never executed: expired, cancelled, no answer.
                yield result["custom_id"], None, error["message"]
            elif response["status_code"] != 200:  # The provider refused it.
                yield result["custom_id"], None, response["body"]["error"]["message"]
            else:
                yield result["custom_id"], response["body"]["choices"][0]["message"]["content"], None


if __name__ == "__main__":
    for path in sys.argv[1:]:
        for custom_id, text, error in read(path):
            print(custom_id, "failed: " + error if error else text.replace("\n", " "), sep="\t")
