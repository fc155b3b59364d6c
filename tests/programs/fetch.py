"""Fetches files with urllib; prints status, length and sha256 of each. usage: fetch.py PORT NAME..."""
import hashlib
import sys
import urllib.error
import urllib.request

for name in sys.argv[2:]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{sys.argv[1]}/{name}", timeout=30) as answer:
            data = answer.read()
            print(name, answer.status, len(data), hashlib.sha256(data).hexdigest())
    except urllib.error.HTTPError as error:
        print(name, error.code, len(error.read()))
