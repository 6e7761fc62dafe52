//! Ways in which a node leaves.

use std::fmt;

use anyhow::Result;
use usher_lab::{Fault, Host, Lab};

/// How a node is lost, or leaves by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Loss {
    /// Its host is.
    Fault(Fault),
    /// Its cables are pulled, and its daemon is killed.
    Kill,
    /// An administrator says so; it serves on.
    Drain,
}

impl Loss {
    /// Those of which the node says nothing.
    pub(super) const DEATHS: [Loss; 6] = [
        Loss::Fault(Fault::LinkDown),
        Loss::Fault(Fault::Drop),
        Loss::Fault(Fault::DropIn),
        Loss::Fault(Fault::DropOut),
        Loss::Kill,
        Loss::Fault(Fault::Freeze),
    ];

    pub(super) fn is_death(self) -> bool {
        self != Loss::Drain
    }

    pub(super) fn begin(self, lab: &Lab, node: u8) -> Result<()> {
        match self {
            Loss::Fault(fault) => lab.fault(Host::Node(node), fault),
            Loss::Kill => {
                lab.fault(Host::Node(node), Fault::LinkDown)?;
                lab.kill_usher(node)
            }
            Loss::Drain => lab.run(Host::Node(node), &["usher", "node", "drain"]).map(drop),
        }
    }

    pub(super) fn end(self, lab: &Lab, node: u8) -> Result<()> {
        match self {
            Loss::Fault(_) => lab.fault(Host::Node(node), Fault::Heal),
            Loss::Kill => {
                lab.fault(Host::Node(node), Fault::Heal)?;
                lab.start_usher(node)
            }
            Loss::Drain => lab.run(Host::Node(node), &["usher", "node", "ready"]).map(drop),
        }
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Loss::Fault(fault) => fault.fmt(f),
            Loss::Kill => f.write_str("kill"),
            Loss::Drain => f.write_str("drain"),
        }
    }
}
