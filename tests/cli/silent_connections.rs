//! Ten thousand connections (800 where the test may not open that many files) send nothing to a server with a
//! low limit of open files.

use std::fs;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::process::Command;

use crate::harness::{Server, TestDir, event};

const SILENT: usize = 10_000;
/// Open files allowed to the server, far fewer than there are connections.
const FILES_MAX: usize = 2_000;
/// Longest time of a create during the flood, on a busy machine.
const CREATE_TIME_MAX: Duration = Duration::from_secs(5);

/// Returns true if this process may open this many files.
fn may_open(files: usize) -> bool {
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find(|line| line.starts_with("Max open files"));
    let soft = line.and_then(|line| line.split_whitespace().nth(3));
    soft.is_some_and(|soft| soft.parse().is_ok_and(|soft: usize| soft >= files))
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_silent_connections_do_not_delay_active_clients() {
    let silent_count = if may_open(SILENT + 200) { SILENT } else { 800 };
    let test_dir = TestDir::new();
    // A shell sets the limit, because safe Rust cannot set that of another process.
    let serve = test_dir.command(&[]);
    let serve = serve.as_std();
    let mut command = Command::new("sh");
    command
        .arg("-c")
        .arg(format!("ulimit -n {FILES_MAX}; exec \"$0\""))
        .arg(serve.get_program())
        .env_clear()
        .envs(serve.get_envs().filter_map(|(name, value)| Some((name, value?))))
        .kill_on_drop(true);
    let server = Server::run(&test_dir, &mut command).await;
    let spirit_id = server.spirit("Ada").await;
    let mut connections = Vec::new();
    for n in 0..silent_count {
        connections.push(TcpStream::connect(&server.addr).await.unwrap());
        if n % 500 == 0 {
            let started_at = Instant::now();
            server
                .events()
                .await
                .create_event(event(&spirit_id))
                .await
                .unwrap();
            assert!(
                started_at.elapsed() < CREATE_TIME_MAX,
                "{n} silent connections: {:?}",
                started_at.elapsed()
            );
        }
    }
    let open = fs::read_dir(format!("/proc/{}/fd", server.pid()))
        .unwrap()
        .count();
    assert!(open < 1_300, "{open} files are open");
    let replay = ["replay", "--spirit", "Ada", "--session", "s"];
    server.command(&test_dir, &replay).await.exits_with(0);
    drop(connections);
    server.stop().await;
}
