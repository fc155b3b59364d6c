//! nginx and curl: 1 B, 1 MiB, 100 MiB, keep-alive, sha256, with sendfile and without.

use tandem_tests::apps::{Field, each_way};
use tandem_tests::{Way, nginx};

use crate::whole;

const FILES: [(&str, usize); 3] = [("1B", 1), ("1MiB", 1 << 20), ("100MiB", 100 << 20)];

fn place(field: &Field) -> String {
    format!("127.0.0.1:{}", field.port)
}

fn fetch(field: &Field, what: &str, files: &[&str]) -> Vec<String> {
    let (launch, outputs) = nginx::fetch(&field.scratch, &place(field), what, files);
    let mut seen = whole(what, &field.ask(launch, 150));
    seen.push(nginx::sums(&outputs));
    seen
}

fn run(test: &str, sendfile: &str, master: &str) {
    each_way(test, &Way::FOUR, |field| {
        let server = field.serve(nginx::launch(&field.scratch, &place(field), sendfile, master, &FILES));
        let mut seen = fetch(field, "one", &["1B"]);
        seen.extend(fetch(field, "keep-alive", &[["1B", "1MiB"]; 12].concat()));
        seen.extend(fetch(field, "large", &["100MiB"]));
        seen.extend(fetch(field, "mixed", &["1B", "100MiB", "1B", "none", "1MiB"]));
        seen.push(format!("alarming log lines {:?}", nginx::alarms(&field.scratch)));
        seen.push(field.stop(server, libc::SIGQUIT));
        seen
    });
}

#[test]
fn nginx_curl_sendfile_on() {
    run("nginx_curl_sendfile_on", "on", "");
}

#[test]
fn nginx_curl_sendfile_off() {
    run("nginx_curl_sendfile_off", "off", "");
}

#[test]
fn nginx_curl_single_process() {
    run("nginx_curl_single_process", "off", "master_process off;");
}
