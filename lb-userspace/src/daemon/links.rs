//! Reads the host's interfaces again and again, in a task: a kernel that does not answer for two
//! seconds must not hold up the loop.

use std::time::Duration;

use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};

use crate::net::{Link, NetError, facts::Links};

/// How often. So long the node may stay in DNS without its program.
const PERIOD: Duration = Duration::from_secs(1);

/// What was read, or why it could not be.
pub(super) type Reading = Result<Vec<Link>, NetError>;

/// Starts the task. It ends when nobody receives any more.
pub(super) fn watch() -> mpsc::Receiver<Reading> {
    // One waits at most: the loop shall see interfaces as they are.
    let (send, receive) = mpsc::channel(1);
    tokio::spawn(run(send));
    receive
}

async fn run(send: mpsc::Sender<Reading>) {
    let mut ticks = interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut links = None;
    while let Ok(place) = send.reserve().await {
        ticks.tick().await;
        place.send(read(&mut links).await);
    }
}

/// Reads over the socket that is open, or a new one; one that failed is closed.
async fn read(links: &mut Option<Links>) -> Reading {
    let open = match links.take() {
        Some(open) => open,
        None => Links::open()?,
    };
    let found = open.read().await?;
    *links = Some(open);
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn this_hosts_interfaces_come_again_and_again() {
        let mut readings = watch();
        for _ in 0..2 {
            let links = readings.recv().await.expect("the task runs").expect("the kernel answers");
            assert!(links.iter().any(|link| link.name == "lo"), "{links:?}");
        }
    }

    #[tokio::test]
    async fn the_socket_stays_open() {
        let mut links = None;
        read(&mut links).await.expect("the kernel answers");
        assert!(links.is_some());
    }
}
