"""Fetches files with urllib; prints status, length and sha256 of each. usage: fetch.py [ADDRESS:]PORT NAME..."""
import hashlib
import sys
import urllib.error
import urllib.request

server = sys.argv[1] if ":" in sys.argv[1] else "127.0.0.1:" + sys.argv[1]
for name in sys.argv[2:]:
    try:
        with urllib.request.urlopen(f"http://{server}/{name}", timeout=30) as answer:
            data = answer.read()
            print(name, answer.status, len(data), hashlib.sha256(data).hexdigest())
    except urllib.error.HTTPError as error:
        print(name, error.code, len(error.read()))
