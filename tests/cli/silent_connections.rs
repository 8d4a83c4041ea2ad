//! Ten thousand connections that say nothing, at a server that may open few files.

use std::fs;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::process::Command;

use crate::harness::{Place, Server, event};

const SILENT: usize = 10_000;
/// Files that the server may open: far fewer than there are connections.
const FILES: usize = 2_000;
/// What a create may take beside the flood, on a busy machine.
const SOON: Duration = Duration::from_secs(5);

/// Whether this process may open so many files.
fn may_open(files: usize) -> bool {
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find(|line| line.starts_with("Max open files"));
    let soft = line.and_then(|line| line.split_whitespace().nth(3));
    soft.is_some_and(|soft| soft.parse().is_ok_and(|soft: usize| soft >= files))
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_silent_connections_cost_those_who_speak_nothing() {
    let silent = if may_open(SILENT + 200) { SILENT } else { 800 };
    let place = Place::new();
    // A shell, since nothing safe here sets another process's limit.
    let plain = place.command(&[]);
    let plain = plain.as_std();
    let mut command = Command::new("sh");
    command
        .arg("-c")
        .arg(format!("ulimit -n {FILES}; exec \"$0\""))
        .arg(plain.get_program())
        .env_clear()
        .envs(plain.get_envs().filter_map(|(name, value)| Some((name, value?))))
        .kill_on_drop(true);
    let server = Server::run(&place, &mut command).await;
    let spirit_id = server.spirit("Ada").await;
    let mut held = Vec::new();
    for n in 0..silent {
        held.push(TcpStream::connect(&server.addr).await.unwrap());
        if n % 500 == 0 {
            let since = Instant::now();
            server
                .events()
                .await
                .create_event(event(&spirit_id))
                .await
                .unwrap();
            assert!(since.elapsed() < SOON, "{n} silent ones: {:?}", since.elapsed());
        }
    }
    let open = fs::read_dir(format!("/proc/{}/fd", server.pid()))
        .unwrap()
        .count();
    assert!(open < 1_300, "{open} files are open");
    let replay = ["replay", "--spirit", "Ada", "--session", "s"];
    server.command(&place, &replay).await.with(0);
    drop(held);
    server.stop().await;
}
