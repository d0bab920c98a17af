//! The servers that `scripts/soak` started, to be ended and started again.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use gristmill_tests::fleet::eventually;
use tokio::net::TcpStream;
use tokio::process::Command;

/// A server of our own: its directory holds its process id (`pid`) and the program that starts it (`start`).
pub(crate) struct Server {
    directory: PathBuf,
    address: String,
}

impl Server {
    /// Finds it by the variables that `scripts/services.sh` exports; `kind` is `RABBITMQ` or `POSTGRES`.
    pub(crate) fn find(kind: &str) -> Self {
        let variable = |name: &str| {
            std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run this by ./scripts/soak"))
        };
        let url = variable(if kind == "POSTGRES" { "GRISTMILL_TEST_DATABASE_URL" } else { "GRISTMILL_TEST_AMQP_URL" });
        let url = url::Url::parse(&url).unwrap();
        Self {
            directory: variable(&format!("GRISTMILL_TEST_{kind}_DIR")).into(),
            address: format!("{}:{}", url.host_str().unwrap(), url.port().unwrap()),
        }
    }

    /// Ends the server by a signal, waits until it is gone, and starts it again.
    pub(crate) async fn restart(&self, signal: &str) {
        let pid = std::fs::read_to_string(self.directory.join("pid")).unwrap();
        let pid = pid.lines().next().unwrap().trim();
        let sent = Command::new("kill").arg(format!("-{signal}")).arg(pid).status().await.unwrap();
        assert!(sent.success(), "signal {signal} was not sent to {pid}");
        let process = Path::new("/proc").join(pid);
        eventually("the server has ended", async || (!process.exists()).then_some(())).await;
        eventually("the server can be started", || self.start()).await;
        eventually("the server listens", async || TcpStream::connect(&self.address).await.ok().map(drop)).await;
    }

    async fn start(&self) -> Option<()> {
        let mut start = Command::new(self.directory.join("start"));
        // It must not hold our pipes.
        start.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        start.status().await.unwrap().success().then_some(())
    }
}
