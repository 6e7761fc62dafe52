//! Attaching an XDP program to interfaces.

use std::{error::Error, io};

use aya::programs::{ProgramError, Xdp, XdpMode as AyaMode, xdp::XdpLinkId};

use super::DataplaneError;
use crate::config::XdpMode;

/// An interface that has the program.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attached {
    /// Its name.
    pub interface: String,
    /// How the program runs there.
    pub mode: AttachedMode,
    /// Where [`XdpMode::Auto`] fell back to generic mode: the interface that forced it, and why. Otherwise
    /// empty.
    pub why_not_native: String,
}

/// How the program runs on an interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttachedMode {
    /// In the driver.
    Native,
    /// In the kernel's generic path.
    Generic,
}

impl AttachedMode {
    /// The word in status and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            AttachedMode::Native => "native",
            AttachedMode::Generic => "generic",
        }
    }
}

impl From<AttachedMode> for XdpMode {
    /// That mode and no other.
    fn from(mode: AttachedMode) -> XdpMode {
        match mode {
            AttachedMode::Native => XdpMode::Native,
            AttachedMode::Generic => XdpMode::Generic,
        }
    }
}

/// Attaches a loaded program to all of these interfaces, or to none.
///
/// All get the same mode; with [`XdpMode::Auto`] one interface that refuses native mode makes all of them
/// generic. Returns the links too, in the order of the interfaces.
pub(super) fn attach(
    program: &mut Xdp,
    name: &'static str,
    interfaces: &[String],
    mode: XdpMode,
) -> Result<(Vec<Attached>, Vec<XdpLinkId>), DataplaneError> {
    let all = |program: &mut Xdp, mode| attach_all(program, name, interfaces, mode);
    let (mode, links, why_not_native) = match mode {
        XdpMode::Native => (AttachedMode::Native, all(program, AttachedMode::Native)?, String::new()),
        XdpMode::Generic => (AttachedMode::Generic, all(program, AttachedMode::Generic)?, String::new()),
        XdpMode::Auto => match all(program, AttachedMode::Native) {
            Ok(links) => (AttachedMode::Native, links, String::new()),
            Err(DataplaneError::Attach { interface, source, .. }) => {
                let why = format!("no native XDP on {interface}: {}", innermost(&source));
                (AttachedMode::Generic, all(program, AttachedMode::Generic)?, why)
            }
            Err(error) => return Err(error),
        },
    };
    let attached = |interface: &String| Attached {
        interface: interface.clone(),
        mode,
        why_not_native: why_not_native.clone(),
    };
    Ok((interfaces.iter().map(attached).collect(), links))
}

/// On an error the program is on none of them.
fn attach_all(
    program: &mut Xdp,
    name: &'static str,
    interfaces: &[String],
    mode: AttachedMode,
) -> Result<Vec<XdpLinkId>, DataplaneError> {
    let mut links = Vec::new();
    for interface in interfaces {
        match attach_as(program, interface, mode) {
            Ok(link) => links.push(link),
            Err(error) => {
                for link in links {
                    program.detach(link).map_err(|source| DataplaneError::Program { name, source })?;
                }
                return Err(error);
            }
        }
    }
    Ok(links)
}

fn attach_as(program: &mut Xdp, interface: &str, mode: AttachedMode) -> Result<XdpLinkId, DataplaneError> {
    let aya_mode = match mode {
        AttachedMode::Native => AyaMode::Driver,
        AttachedMode::Generic => AyaMode::Skb,
    };
    program.attach(interface, aya_mode).map_err(|source| {
        let interface = interface.to_owned();
        match is_occupied(&source) {
            true => DataplaneError::Occupied { interface },
            false => DataplaneError::Attach { interface, mode: mode.as_str(), source },
        }
    })
}

/// Whether the interface has an XDP program already: EBUSY, or EEXIST from drivers that tell modes apart.
fn is_occupied(error: &ProgramError) -> bool {
    matches!(os_error(error), Some(libc::EBUSY | libc::EEXIST))
}

/// The number of the kernel's answer.
pub(super) fn os_error(error: &ProgramError) -> Option<i32> {
    innermost(error).downcast_ref::<io::Error>().and_then(io::Error::raw_os_error)
}

/// The cause of all causes.
fn innermost<'a>(error: &'a (dyn Error + 'static)) -> &'a (dyn Error + 'static) {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause
}
