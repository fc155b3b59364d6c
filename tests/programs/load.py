"""What the loads share: one thread a connection, and what became of each."""
import sys
import threading


def each_connection(count, run, what):
    """`run` takes the connection's number and returns how many `what` were right, and their bytes. Ends the program."""
    results, failures = [], []

    def guarded(number):
        try:
            results.append((number, *run(number)))
        except BaseException as error:
            failures.append(f"{type(error).__name__}: {error}")

    threads = [threading.Thread(target=guarded, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, checked, done in sorted(results):
        print(f"connection {number}: {checked} {what} right, {done} bytes")
    for failure in failures:
        print(failure)
    sys.exit(1 if failures else 0)
