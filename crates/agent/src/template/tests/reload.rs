//! HAProxy and nginx themselves, reloaded while a session is open.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::{Child, Command};

use super::*;

/// No wait is longer: what has not happened by then never will.
const PATIENCE: Duration = Duration::from_secs(60);

async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited in vain for {what}"),
    }
}

/// A program that stands between a shipper and the collectors.
struct Between {
    name: &'static str,
    program: &'static str,
    /// What is around the rendered file.
    main: &'static str,
    start: &'static [&'static str],
    /// Called beside the one that runs; `PID` is that one.
    reload: &'static [&'static str],
}

impl Between {
    fn render(&self, folder: &Path, listen: SocketAddr, collector: SocketAddr) {
        let env: Variables = Arc::new(move |name| (name == "PIKEPOLE_LISTEN").then(|| listen.to_string()));
        let roster = roster(&[("i-1", &collector.to_string(), v1::MemberState::Active)]);
        let template = Template::load(&Source::Builtin(self.name.into())).unwrap();
        std::fs::write(folder.join("rendered"), template.render(&roster, &env).unwrap().text).unwrap();
    }

    fn run(&self, folder: &Path, words: &[&str], pid: u32) -> Child {
        let words = words.iter().map(|word| word.replace("PID", &pid.to_string()));
        let mut command = Command::new(self.program);
        command.args(words).current_dir(folder).kill_on_drop(true).spawn().unwrap()
    }

    async fn leaves_who_is_no_longer_a_member(&self) {
        let folder = tempfile::TempDir::new().unwrap();
        let main = self.main.replace("@FOLDER@", folder.path().to_str().unwrap());
        std::fs::write(folder.path().join("main"), main).unwrap();
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let listen = free.local_addr().unwrap();
        drop(free);
        let gone = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let stays = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        self.render(folder.path(), listen, gone.local_addr().unwrap());
        let mut first = self.run(folder.path(), self.start, 0);
        let mut session = within("a listener", through(listen, &gone)).await;
        self.render(folder.path(), listen, stays.local_addr().unwrap());
        let _second = self.run(folder.path(), self.reload, first.id().unwrap());
        // The shipper says nothing and goes on holding its connection, as Filebeat does between two batches.
        let ended = within("the end of the session", session.read(&mut [0; 1])).await;
        assert!(ended.is_err() || matches!(ended, Ok(0)), "{}: {ended:?}", self.name);
        within("a session with the new member", through(listen, &stays)).await;
        // By word, so that its workers end too.
        let pid = i32::try_from(first.id().unwrap()).unwrap();
        kill_process(Pid::from_raw(pid).unwrap(), Signal::TERM).unwrap();
        within("its end", first.wait()).await.unwrap();
    }
}

/// A session with a collector through the fixed address. Others that connect, a check perhaps, say nothing.
async fn through(listen: SocketAddr, collector: &TcpListener) -> TcpStream {
    loop {
        let Ok(mut session) = TcpStream::connect(listen).await else {
            tokio::task::yield_now().await;
            continue;
        };
        if session.write_all(b"2W").await.is_err() {
            continue;
        }
        loop {
            let (mut accepted, _) = tokio::select! {
                accepted = collector.accept() => accepted.unwrap(),
                _ = session.readable() => break, // it was ended
            };
            let mut said = [0; 2];
            if accepted.read_exact(&mut said).await.is_ok() {
                tokio::spawn(async move { while accepted.read(&mut said).await.is_ok_and(|n| n > 0) {} });
                return session;
            }
        }
    }
}

#[tokio::test]
async fn haproxy_that_is_reloaded_leaves_a_collector_that_is_gone() {
    let haproxy = Between {
        name: "haproxy",
        program: "/usr/sbin/haproxy",
        main: "",
        start: &["-db", "-f", "rendered"],
        reload: &["-db", "-f", "rendered", "-sf", "PID"],
    };
    haproxy.leaves_who_is_no_longer_a_member().await;
}

#[tokio::test]
async fn nginx_that_is_reloaded_leaves_a_collector_that_is_gone() {
    let nginx = Between {
        name: "nginx-stream",
        program: "/usr/sbin/nginx",
        main: "load_module /usr/lib/nginx/modules/ngx_stream_module.so;\ndaemon off;\npid @FOLDER@/pid;\n\
               error_log stderr;\nevents {}\ninclude @FOLDER@/rendered;\n",
        start: &["-p", ".", "-c", "main"],
        reload: &["-p", ".", "-c", "main", "-s", "reload"],
    };
    nginx.leaves_who_is_no_longer_a_member().await;
}
