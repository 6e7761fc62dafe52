//! Checks that run again and again.

use std::{collections::BTreeSet, net::SocketAddr, time::Duration};

use lb_userspace::{
    config::{CheckKind, Timing},
    core::{check::Code, health::Pace},
    probe::{self, Probe, Report},
};
use tokio::{
    net::{TcpListener, TcpSocket},
    sync::mpsc,
    time::Instant,
};

const INTERVAL: Duration = Duration::from_millis(20);

fn timing() -> Timing {
    Timing { interval: INTERVAL, fast_interval: INTERVAL, timeout: INTERVAL, rise: 2, fall: 3, jitter: 0.1 }
}

fn tcp(target: SocketAddr) -> Probe {
    let timeout = Duration::from_secs(20);
    Probe::new(CheckKind::Tcp, target, timeout)
}

#[tokio::test]
async fn reports_in_rhythm_until_dropped() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (sender, mut reports) = mpsc::channel(1);
    let begin = Instant::now();
    let handle = probe::start("backend1", tcp(listener.local_addr().unwrap()), timing(), sender);
    for _ in 0..10 {
        let Report { id, result, .. } = reports.recv().await.unwrap();
        assert_eq!((id, result.code), ("backend1", Code::L4Ok));
    }
    // Nine intervals, each shorter by a tenth at most.
    assert!(begin.elapsed() >= INTERVAL * 8, "{:?}", begin.elapsed());

    drop(handle);
    // The task's sender goes with it; one report may still be on its way.
    let mut rest = 0;
    while reports.recv().await.is_some() {
        rest += 1;
    }
    assert!(rest <= 1, "{rest} reports after the end");
}

#[tokio::test]
async fn a_run_that_is_awaited_comes_sooner_at_the_fast_pace() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let timing = Timing { interval: Duration::from_secs(3_600), fast_interval: INTERVAL, ..timing() };
    let (sender, mut reports) = mpsc::channel(8);
    let handle = probe::start((), tcp(listener.local_addr().unwrap()), timing, sender);
    reports.recv().await.unwrap();
    handle.set_pace(Pace::Fast);
    for _ in 0..3 {
        reports.recv().await.unwrap();
    }
}

#[tokio::test]
async fn runs_are_left_out_while_it_is_paused() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (sender, mut reports) = mpsc::channel(100);
    let handle = probe::start((), tcp(listener.local_addr().unwrap()), timing(), sender);
    reports.recv().await.unwrap();
    assert!(handle.set_paused(true));
    assert!(!handle.set_paused(true), "nothing new");
    // One may be under way.
    tokio::time::sleep(INTERVAL * 2).await;
    while reports.try_recv().is_ok() {}
    handle.check_now();
    tokio::time::sleep(INTERVAL * 5).await;
    assert!(reports.try_recv().is_err(), "it runs");

    assert!(handle.set_paused(false));
    let late = reports.recv().await.unwrap().late;
    assert!(late < Duration::from_secs(1), "the pause counts as delay: {late:?}");
}

#[tokio::test]
async fn a_run_can_be_had_at_once() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let hour = Duration::from_secs(3_600);
    let timing = Timing { interval: hour, fast_interval: hour, ..timing() };
    let (sender, mut reports) = mpsc::channel(8);
    let handle = probe::start((), tcp(listener.local_addr().unwrap()), timing, sender);
    for _ in 0..3 {
        reports.recv().await.unwrap();
        handle.check_now();
    }
}

#[tokio::test]
async fn a_failing_check_goes_on() {
    // Bound, but not listening: refuses.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let (sender, mut reports) = mpsc::channel(8);
    let _handle = probe::start((), tcp(socket.local_addr().unwrap()), timing(), sender);
    for _ in 0..3 {
        assert_eq!(reports.recv().await.unwrap().result.code, Code::L4Con);
    }
}

#[tokio::test]
async fn many_checks_share_one_channel() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let target = listener.local_addr().unwrap();
    let accept = tokio::spawn(async move { while listener.accept().await.is_ok() {} });
    let (sender, mut reports) = mpsc::channel(8);
    let handles: Vec<_> =
        (0..200).map(|id| probe::start(id, tcp(target), timing(), sender.clone())).collect();
    drop(sender);
    let mut seen = BTreeSet::new();
    while seen.len() < handles.len() {
        let report = reports.recv().await.unwrap();
        assert!(report.result.code.passed(), "{report:?}");
        seen.insert(report.id);
    }
    drop(handles);
    while reports.recv().await.is_some() {}
    accept.abort();
}

#[tokio::test]
async fn a_task_without_receiver_ends() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (sender, reports) = mpsc::channel(8);
    let watched = sender.clone();
    let _handle = probe::start((), tcp(listener.local_addr().unwrap()), timing(), sender);
    drop(reports);
    watched.closed().await;
    while watched.strong_count() > 1 {
        tokio::task::yield_now().await;
    }
}
