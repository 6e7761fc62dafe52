//! Ways in which a host can be lost, and back.

use std::{fmt, str::FromStr};

use anyhow::{Error, Result};

use crate::{
    host::Host,
    network,
    process::{Signal, list, signal},
    topology::named,
};

/// What befalls a host. Faults add up until [`Fault::Heal`]; the same one twice is the same as once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Its cables are pulled: both ends see it.
    LinkDown,
    /// The network loses all packets to and from it, without a sign.
    Drop,
    /// The network loses all packets to it; its own arrive.
    DropIn,
    /// The network loses all packets from it; it gets the others'.
    DropOut,
    /// The whole host stands still: its processes are stopped, and nothing comes or goes.
    Freeze,
    /// Everything that befell it is over.
    Heal,
}

impl Fault {
    /// Every one.
    pub const ALL: [Fault; 6] =
        [Fault::LinkDown, Fault::Drop, Fault::DropIn, Fault::DropOut, Fault::Freeze, Fault::Heal];
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Fault::LinkDown => "link-down",
            Fault::Drop => "drop",
            Fault::DropIn => "drop-in",
            Fault::DropOut => "drop-out",
            Fault::Freeze => "freeze",
            Fault::Heal => "heal",
        })
    }
}

impl FromStr for Fault {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        named(text, Fault::ALL, "fault")
    }
}

/// Lets `fault` befall `host`.
///
/// # Errors
/// When there is no such host, or it is not at the switch.
pub(crate) fn befall(host: Host, fault: Fault) -> Result<()> {
    match fault {
        Fault::LinkDown => network::plug(host, false),
        Fault::Drop => network::bridge(host, false),
        Fault::DropIn => network::deliver(host, false),
        Fault::DropOut => network::accept(host, false),
        Fault::Freeze => {
            network::bridge(host, false)?;
            signal(Signal::Stop, &list(&host.namespace()))
        }
        Fault::Heal => {
            network::accept(host, true)?;
            network::deliver(host, true)?;
            network::plug(host, true)?;
            network::bridge(host, true)?;
            signal(Signal::Continue, &list(&host.namespace()))
        }
    }
}
