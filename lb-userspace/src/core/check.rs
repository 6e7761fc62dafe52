//! The result of one check, in HAProxy's words.

use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

use super::admin::Override;

/// What a check found. The names are those that HAProxy's status page uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Code {
    /// Connected (TCP check).
    L4Ok,
    /// Connecting failed at once: refused, no route, reset.
    L4Con,
    /// Connecting took too long.
    L4Tout,
    /// The TLS handshake succeeded.
    L6Ok,
    /// Connected, but the TLS handshake took too long.
    L6Tout,
    /// Connected, but there was no TLS, or a certificate that is not trusted.
    L6Rsp,
    /// The request was answered as expected.
    L7Ok,
    /// Connected, but the answer took too long.
    L7Tout,
    /// Connected, but what came back is not an answer of this protocol, or nothing came.
    L7Rsp,
    /// Answered with another status than expected.
    L7Sts,
    /// The command ended with exit code 0.
    ProcOk,
    /// The command ended otherwise.
    ProcErr,
    /// The command took too long, and was killed.
    ProcTout,
    /// The check could not be made here: no socket, no source address.
    Sockerr,
}

impl Code {
    /// Whether the check counts as passed.
    pub fn passed(self) -> bool {
        matches!(self, Code::L4Ok | Code::L6Ok | Code::L7Ok | Code::ProcOk)
    }

    /// HAProxy's spelling.
    pub fn as_str(self) -> &'static str {
        match self {
            Code::L4Ok => "L4OK",
            Code::L4Con => "L4CON",
            Code::L4Tout => "L4TOUT",
            Code::L6Ok => "L6OK",
            Code::L6Tout => "L6TOUT",
            Code::L6Rsp => "L6RSP",
            Code::L7Ok => "L7OK",
            Code::L7Tout => "L7TOUT",
            Code::L7Rsp => "L7RSP",
            Code::L7Sts => "L7STS",
            Code::ProcOk => "PROCOK",
            Code::ProcErr => "PROCERR",
            Code::ProcTout => "PROCTOUT",
            Code::Sockerr => "SOCKERR",
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One finished check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckResult {
    /// What was found.
    pub code: Code,
    /// From the start to the result.
    pub duration: Duration,
    /// For people: `200 OK`, `Connection refused`; may be empty.
    pub detail: String,
    /// What will make it fail some day: `its certificate expires in 6 days`.
    pub warning: Option<String>,
    /// What the backend itself wants, by an agent.
    pub advice: Option<Override>,
}

impl CheckResult {
    /// A result that neither warns nor advises.
    pub fn new(code: Code, duration: Duration, detail: impl Into<String>) -> CheckResult {
        CheckResult { code, duration, detail: detail.into(), warning: None, advice: None }
    }
}
