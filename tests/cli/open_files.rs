//! A low limit of open files: refused at start if it is too low, else shared out so that operators cannot take
//! the files of clients.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::Command;

use crate::harness::{Server, TestDir, event, finish};

/// Files that a server with the default settings needs: 256, 18 for its pools, and 64 connections.
const FILES_MIN: u32 = 338;

/// The server under a limit of open files. A shell sets it, because safe Rust cannot set that of another process.
fn limited(test_dir: &TestDir, files_max: u32, variables: &[(&str, &str)]) -> Command {
    let serve = test_dir.command(&[]);
    let serve = serve.as_std();
    let mut command = Command::new("sh");
    command
        .arg("-c")
        .arg(format!("ulimit -n {files_max}; exec \"$0\""))
        .arg(serve.get_program())
        .env_clear()
        .envs(serve.get_envs().filter_map(|(name, value)| Some((name, value?))))
        .envs(variables.iter().copied())
        .kill_on_drop(true);
    command
}

#[tokio::test]
async fn a_start_with_too_few_open_files_is_refused_with_the_number_needed() {
    let test_dir = TestDir::new();
    for files_max in [256, FILES_MIN - 1] {
        let exited = finish(&mut limited(&test_dir, files_max, &[]))
            .await
            .exits_with(2);
        exited.reports(&[
            &format!("the limit of open files is {files_max}"),
            &format!("at least {FILES_MIN}"),
            "ulimit -n",
            "LimitNOFILE",
        ]);
        assert!(!test_dir.data.exists());
    }
}

/// Makes a GET request and returns the reply.
async fn get(addr: &str, path: &str) -> String {
    let mut connection = TcpStream::connect(addr).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n");
    connection.write_all(request.as_bytes()).await.unwrap();
    let mut reply = String::new();
    connection.read_to_string(&mut reply).await.unwrap();
    reply
}

/// The address in the log line about the admin address.
fn admin_addr(server: &Server) -> String {
    let log = server.log();
    let (_, addr) = log.split_once("serving metrics and readiness addr=").unwrap();
    addr.split_whitespace().next().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_to_the_admin_address_leave_clients_and_metrics_working() {
    const IDLE: usize = 355;
    let test_dir = TestDir::new();
    let mut command = limited(&test_dir, FILES_MIN, &[("EVENTS_ADMIN_ADDR", "127.0.0.1:0")]);
    let server = Server::run(&test_dir, &mut command).await;
    let admin = admin_addr(&server);
    let spirit_id = server.spirit("Ada").await;
    let mut idle = Vec::new();
    for n in 0..IDLE {
        let mut connection = TcpStream::connect(&admin).await.unwrap();
        // Half of a request. The write fails if the connection was closed already.
        drop(connection.write_all(b"GET /metrics HTTP/1.1\r\nho").await);
        idle.push(connection);
        if n % 50 == 0 {
            let mut events = server.events().await;
            events.create_event(event(&spirit_id)).await.unwrap();
        }
    }
    let metrics = get(&admin, "/metrics").await;
    assert!(metrics.starts_with("HTTP/1.1 200"), "{metrics}");
    assert!(metrics.contains("process_open_fds"), "{metrics}");
    let mut events = server.events().await;
    events.create_event(event(&spirit_id)).await.unwrap();
    server.stop().await;
}
