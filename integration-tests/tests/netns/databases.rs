//! Redis, PostgreSQL and MariaDB, on ports about which nothing is declared.

use std::process::Command;

use integration_tests::mesh::{eventually, process};

use super::pair::{Pair, said};

#[test]
fn redis() {
    let pair = Pair::new(6379, None);
    let _server = pair.serve(&["redis-server", "--bind", "*", "-::*", "--protected-mode", "no", "--save", ""], 6379);
    for addr in pair.service {
        let [host, port] = [addr.ip().to_string(), addr.port().to_string()];
        let cli = ["redis-cli", "-h", &host, "-p", &port];
        assert_eq!(said(&pair.client, &[&cli[..], &["set", "key", "value"]].concat()), "OK\n");
        assert_eq!(said(&pair.client, &[&cli[..], &["get", "key"]].concat()), "value\n");
    }
    let host = pair.service[0].ip().to_string();
    let load = ["redis-benchmark", "-h", &host, "-p", "80", "-n", "5000", "-c", "20", "-P", "4", "-t", "set,get", "-q"];
    assert!(said(&pair.client, &load).contains("requests per second"));
}

#[test]
fn postgresql() {
    let pair = Pair::new(5432, None);
    let programs = std::fs::read_dir("/usr/lib/postgresql").expect("the Debian package postgresql is installed");
    let programs = programs.map(|version| version.unwrap().path().join("bin")).max().unwrap();
    let [initdb, postgres] = ["initdb", "postgres"].map(|name| programs.join(name).display().to_string());
    let data = pair.file("postgresql");
    std::fs::create_dir(&data).unwrap();
    // It refuses to run as root.
    let id = String::from_utf8(Command::new("id").args(["-u", "postgres"]).output().unwrap().stdout).unwrap();
    let id = id.trim();
    process::give(&data, id.parse().expect("the Debian package made its user")).unwrap();
    let data_words = ["-D", &data.display().to_string()];
    let as_user = ["setpriv", "--pdeathsig", "KILL", "--reuid", id, "--clear-groups", "--"];
    let words = [&as_user[..], &[&initdb], &data_words, &["-A", "trust", "-U", "app", "--no-sync"]].concat();
    said(&pair.server, &words);
    std::fs::write(data.join("pg_hba.conf"), "host all all all trust\n").unwrap();
    let settings = ["-c", "listen_addresses=*", "-c", "unix_socket_directories=", "-c", "fsync=off"];
    let _server = pair.serve(&[&as_user[..], &[&postgres], &data_words, &settings].concat(), 5432);
    for addr in pair.service {
        let url = format!("postgresql://app@{addr}/postgres?connect_timeout=10");
        wait_until_ready(&pair, &["psql", &url, "-XAtc", "select 1"]);
        let query = "select count(*), sum(length(repeat('a', n))) from generate_series(1, 2000) as n";
        assert_eq!(said(&pair.client, &["psql", &url, "-XAtc", query]), "2000|2001000\n");
    }
}

/// The server speaks first.
#[test]
fn mariadb() {
    let pair = Pair::new(3306, None);
    let [data, socket, pid, users] =
        ["mariadb", "mariadb.socket", "mariadb.pid", "users.sql"].map(|name| pair.file(name).display().to_string());
    said(&pair.server, &["mariadb-install-db", "--no-defaults", "--user=root", &format!("--datadir={data}")]);
    std::fs::write(&users, "CREATE USER app@'%' IDENTIFIED BY 'secret';\n").unwrap();
    let server = [
        "mariadbd",
        "--no-defaults",
        "--user=root",
        "--bind-address=*",
        "--skip-name-resolve",
        &format!("--datadir={data}"),
        &format!("--socket={socket}"),
        &format!("--pid-file={pid}"),
        &format!("--init-file={users}"),
    ];
    let _server = pair.serve(&server, 3306);
    for addr in pair.service {
        let [host, port] = [format!("-h{}", addr.ip()), format!("-P{}", addr.port())];
        let query = ["mariadb", "--no-defaults", &host, &port, "-uapp", "-psecret", "-BNe", "select 6 * 7"];
        wait_until_ready(&pair, &query);
        assert_eq!(said(&pair.client, &query), "42\n");
    }
}

/// Databases listen before they have opened everything.
fn wait_until_ready(pair: &Pair, words: &[&str]) {
    let mut last = String::new();
    let ready = eventually(std::time::Duration::from_secs(20), || {
        let done = pair.client.command("timeout", &[&["5"], words].concat());
        last = done.as_ref().err().map_or_else(String::new, |error| format!("{error:#}"));
        done.is_ok()
    });
    assert!(ready.is_ok(), "{last}\n{}", pair.client.log("proxy"));
}
