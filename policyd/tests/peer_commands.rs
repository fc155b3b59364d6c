//! `tandem peer` and `tandem check`, as an administrator of two hosts uses them.

mod hosts;
mod switch;

use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};

use hosts::*;
use serde_json::Value;
use switch::TANDEM;

fn tandem(host: &Host, arguments: &[&str]) -> Output {
    let mut command = Command::new(TANDEM);
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("TANDEM_")) {
        command.env_remove(name);
    }
    command.env("TANDEM_POLICYD", host.socket()).args(arguments).output().unwrap()
}

#[track_caller]
fn says(host: &Host, arguments: &[&str]) -> String {
    let output = tandem(host, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn fails(host: &Host, arguments: &[&str], word: &str) {
    let output = tandem(host, arguments);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains(word), "{arguments:?}: {said}");
}

/// No key yet, and nobody listed.
fn bare(wire: &Wire) -> [Host; 2] {
    let mut hosts = [0, 1].map(|end| Host::new(wire, end));
    for host in &mut hosts {
        std::fs::remove_file(host.folder.path().join("peer.key")).unwrap();
        host.start();
    }
    hosts
}

#[test]
fn two_hosts_are_linked_by_four_commands() {
    let Some(wire) = Wire::new("commands") else { return };
    let hosts = bare(&wire);
    let keys = [0, 1].map(|end: usize| says(&hosts[end], &["peer", "key"]).trim().to_owned());
    for (host, key) in hosts.iter().zip(&keys) {
        let file = host.folder.path().join("peer.key");
        assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(says(host, &["peer", "key"]).trim(), key, "it is made once");
        let shown: Value = serde_json::from_str(&says(host, &["peer", "key", "--json"])).unwrap();
        assert_eq!((shown["public_key"].as_str(), shown["made"].as_bool()), (Some(key.as_str()), Some(false)));
    }
    let add = |host: &Host, name: &str, key: &str, end: usize, addresses: &[&str]| {
        let endpoint = address(end, PORT).to_string();
        let mut arguments = vec!["peer", "add", name, key, "--endpoint", &endpoint, "--address"];
        arguments.extend(addresses);
        says(host, &arguments);
    };
    add(&hosts[0], "b", &keys[1], 1, &["10.77.0.2", "fd00:77::2/128"]);
    add(&hosts[1], "a", &keys[0], 0, &["10.77.0.1/32", "fd00:77::1"]);
    until_linked(&hosts);
    let listed = says(&hosts[0], &["peer", "list"]);
    let line = listed.lines().nth(1).unwrap();
    assert!(line.starts_with("b     up") && line.contains("10.77.0.2/32,fd00:77::2/128"), "{listed}");
    let listed: Value = serde_json::from_str(&says(&hosts[0], &["peer", "list", "--json"])).unwrap();
    assert_eq!(listed["peers"][0]["served"][0], "10.77.0.2");
    assert_eq!(listed["served"][0]["device"], "rxe0");

    // What can't be is refused before anything is written.
    let other = tandem_policyd::peers::Keypair::generate().unwrap().public.to_string();
    let refused = |arguments: &[&str], word: &str| fails(&hosts[0], arguments, word);
    refused(&["peer", "add", "b", &other, "--address", "10.9.9.9"], "a second peer b");
    refused(&["peer", "add", "c", &keys[1], "--address", "10.9.9.9"], "the same public_key");
    refused(&["peer", "add", "c", &other, "--address", "10.77.0.2"], "give it to one");
    refused(&["peer", "add", "c", &keys[0], "--address", "10.9.9.9"], "this host's own key");
    refused(&["peer", "add", "c", "abc", "--address", "10.9.9.9"], "is no public key");
    refused(&["peer", "add", "../c", &other, "--address", "10.9.9.9"], "names no peer");
    refused(&["peer", "add", "c", &other], "--address");
    refused(&["peer", "add", "c", &other, "--address", "10.9.9.0/33"], "is no address");
    refused(&["peer", "remove", "c"], "listed: b");
    assert_eq!(std::fs::read_dir(hosts[0].folder.path().join("peers.d")).unwrap().count(), 1);

    says(&hosts[0], &["peer", "remove", "b"]);
    within("the link is gone at both", || hosts[0].peers().peers.is_empty() && !hosts[1].peer("a").up);
    add(&hosts[0], "b", &keys[1], 1, &["10.77.0.2", "fd00:77::2"]);
    until_linked(&hosts);
}

#[test]
fn a_broken_folder_and_an_open_key_are_said_and_change_nothing() {
    let Some(wire) = Wire::new("broken") else { return };
    let hosts = linked(&wire);
    let wrong = hosts[0].folder.path().join("peers.d/wrong.toml");
    std::fs::write(&wrong, "[[peer]]\nname = 1\n").unwrap();
    let other = tandem_policyd::peers::Keypair::generate().unwrap().public.to_string();
    fails(&hosts[0], &["peer", "add", "c", &other, "--address", "10.9.9.9"], "wrong.toml");
    hosts[0].signal(nix::sys::signal::Signal::SIGHUP);
    std::thread::sleep(std::time::Duration::from_millis(300));
    assert!(hosts[0].peer("b").up, "what was in force stays");
    std::fs::remove_file(wrong).unwrap();

    let key = hosts[0].folder.path().join("peer.key");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    fails(&hosts[0], &["peer", "key"], "chmod 600");
    hosts[0].reload();
    within("no link without a key that is ours alone", || !hosts[1].peer("a").up);
    assert!(hosts[0].peers().fault.unwrap().contains("mode 644"));
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    hosts[0].reload();
    until_linked(&hosts);
}

#[test]
fn check_names_what_is_missing_and_the_remedy() {
    let Some(wire) = Wire::new("check") else { return };
    let hosts = linked(&wire);
    let sysfs = hosts[0].folder.path().join("sys");
    let library = std::env::current_exe().unwrap();
    let arguments = ["check", "--json", "--library", library.to_str().unwrap(), "--sysfs", sysfs.to_str().unwrap()];
    let report = || -> Value { serde_json::from_slice(&tandem(&hosts[0], &arguments).stdout).unwrap() };
    let of = |report: &Value, name: &str| -> Value {
        report["checks"].as_array().unwrap().iter().find(|check| check["name"] == name).unwrap().clone()
    };
    let first = report();
    assert_eq!(first["local"], true, "{first}");
    for name in ["switch", "policyd", "memfd", "network namespaces", "RDMA device", "policyd's table", "peer"] {
        assert_eq!(of(&first, name)["ok"], true, "{name}: {first}");
    }
    assert!(of(&first, "RDMA device")["found"].as_str().unwrap().contains("10.77.0.1 by rxe0"));
    assert!(of(&first, "peer")["found"].as_str().unwrap().contains("b: up"));
    // Without a provider here it can't be done between hosts, and that is what this host is set up for. (One may have been built.)
    let built = std::path::Path::new(TANDEM).with_file_name("libtandem_rdma.so").exists();
    assert_eq!(of(&first, "verbs provider")["ok"], built, "{first}");
    assert!(built || tandem(&hosts[0], &arguments).status.code() == Some(1));
    hosts[0].serve(&[]);
    let second = report();
    let table = of(&second, "policyd's table");
    assert!(table["found"].as_str().unwrap().contains("still takes 10.77.0.1"), "{table}");
    let device = of(&second, "RDMA device");
    assert!(device["remedy"].as_str().unwrap().contains("RoCE v2"), "{device}");
    // As a person reads it; and without a policyd.
    let page = String::from_utf8(tandem(&hosts[0], &["check", "--library", "/nonexistent.so"]).stdout).unwrap();
    assert!(page.contains("missing  switch") && page.contains("-> install it"), "{page}");
    let mut nobody = Command::new(TANDEM);
    let output = nobody.args(["check", "--policyd", "/nonexistent/p.sock"]).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("missing  policyd"));
    assert_eq!(output.status.code(), Some(1));
}

/// What others have written: found beside the switch, each loaded in a process of its own, and what is wrong with it said.
#[test]
fn check_lists_every_provider_that_is_installed() {
    let Some(wire) = Wire::new("providers") else { return };
    let hosts = linked(&wire);
    let prefix = tempfile::tempdir().unwrap();
    let folder = prefix.path().join("tandem-providers");
    std::fs::create_dir(&folder).unwrap();
    let library = prefix.path().join("libtandem.so");
    std::fs::write(&library, "").unwrap();
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let compile = |name: &str, source: &str| {
        let file = prefix.path().join("source.c");
        std::fs::write(&file, format!("#include \"tandem_provider.h\"\n{source}\n")).unwrap();
        let mut cc = Command::new("cc");
        cc.args(["-shared", "-fPIC", "-pthread", "-I"]).arg(root.join("rdma-provider/include"));
        cc.arg("-I").arg(root.join("tests/stand_in")).arg(file).arg("-o").arg(folder.join(format!("{name}.so")));
        assert!(cc.status().unwrap().success(), "{name}");
    };
    let table = |table: &str| {
        format!(
            "static struct tandem_provider table = {table};\n\
             const struct tandem_provider *tandem_provider_open(const struct tandem_host *host) {{ return host ? &table : 0; }}"
        )
    };
    compile("mine", "#define STAND_IN_NAME \"mine\"\n#include \"provider.c\"");
    compile("renamed", "#include \"provider.c\"");
    compile("old", &table("{ 99, sizeof table }"));
    compile("short", &table("{ TANDEM_PROVIDER_VERSION, 64 }"));
    compile(
        "refuses",
        "const struct tandem_provider *tandem_provider_open(const struct tandem_host *h) { return (void)h, (void *)0; }",
    );
    compile("none", "int something_else;");
    compile("breaks", "__attribute__((constructor)) static void now(void) { __builtin_trap(); }");
    std::fs::write(folder.join("garbage.so"), "no library").unwrap();
    std::fs::write(folder.join("Big.so"), "").unwrap();
    std::fs::create_dir(folder.join("folder.so")).unwrap();
    std::fs::write(folder.join("README"), "not looked at").unwrap();

    let sysfs = hosts[0].folder.path().join("sys");
    let arguments = ["check", "--json", "--library", library.to_str().unwrap(), "--sysfs", sysfs.to_str().unwrap()];
    let found = || -> Vec<String> {
        let output = tandem(&hosts[0], &arguments);
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let all = report["checks"].as_array().unwrap().iter().filter(|check| check["name"] == "provider");
        all.map(|check| format!("{} {} -> {}", check["ok"], check["found"], check["remedy"])).collect()
    };
    let says = |all: &[String], words: &[&str]| {
        assert!(all.iter().any(|line| words.iter().all(|word| line.contains(word))), "{words:?}: {all:#?}");
    };
    let all = found();
    says(&all, &["false", "mine: ABI version 1", "no address", "providers.d/mine.toml"]);
    says(&all, &["false", "renamed: it calls itself", "verbs"]);
    says(&all, &["false", "old: ", "version 99, ours 1"]);
    says(&all, &["false", "short: ", "64 bytes"]);
    says(&all, &["false", "refuses: ", "no table"]);
    says(&all, &["false", "none: it is no provider: it has no tandem_provider_open"]);
    says(&all, &["false", "breaks: it ends the process that loads it, by signal"]);
    says(&all, &["false", "garbage: it cannot be loaded", "garbage.so"]);
    says(&all, &["false", "folder: it cannot be loaded"]);
    says(&all, &["false", "Big: no provider can have this name"]);
    assert_eq!(all.len(), 10, "{all:#?}");

    // Its addresses are policyd's at once, and go before the device's; as those of a library that is not there do.
    let drop_ins = hosts[0].folder.path().join("providers.d");
    std::fs::create_dir(&drop_ins).unwrap();
    let by = |address: &str| {
        let served = hosts[0].peers().served;
        served.iter().find(|served| served.address.to_string() == address).map(|served| served.provider.clone())
    };
    assert_eq!(by("10.77.0.1").as_deref(), Some("verbs"));
    std::fs::write(drop_ins.join("mine.toml"), "addresses = [\"10.77.0.1\", \"10.99.0.1\"]\n").unwrap();
    within("the file is read", || by("10.77.0.1").as_deref() == Some("mine"));
    assert_eq!((by("fd00:77::1").as_deref(), by("10.99.0.1")), (Some("verbs"), None), "only what this host has");
    std::fs::write(drop_ins.join("absent.toml"), "addresses = [\"fd00:77::1\"]\n").unwrap();
    std::fs::write(drop_ins.join("wrong.toml"), "addresses = [\"fd00:77::1\"\n").unwrap();
    within("that one, too", || by("fd00:77::1").as_deref() == Some("absent"));
    let all = found();
    says(&all, &["true", "mine: ABI version 1; serves 10.77.0.1"]);
    says(&all, &["false", "absent: addresses are given to it, and there is no library", "absent.so"]);
    says(&all, &["false", "wrong.toml gives no addresses"]);
    std::fs::remove_dir_all(&drop_ins).unwrap();
    within("the files are gone", || by("10.77.0.1").as_deref() == Some("verbs"));
}
