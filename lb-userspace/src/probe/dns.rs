//! `dns`: a DNS server has records of a type for a name, and the expected one if that is said.

use std::os::fd::BorrowedFd;

use tokio::time::Instant;

use super::{Endpoints, Finding, Limit, is_local, tcp};
use crate::{
    core::check::Code,
    dns::{AskError, Found, Way, look_up},
};

/// What is asked, and what should come back.
pub(super) struct Request<'a> {
    pub(super) query: &'a str,
    /// `A`, `SOA`.
    pub(super) record: &'a str,
    /// What one of the records contains; any record will do when absent.
    pub(super) expect: Option<&'a str>,
}

/// Asks once; over TCP too, if the answer does not fit.
pub(super) async fn check(
    endpoints: &Endpoints<'_>,
    request: &Request<'_>,
    limit: Limit,
) -> Result<Finding, Finding> {
    let left = limit.deadline.saturating_duration_since(Instant::now());
    let opened = |socket: BorrowedFd<'_>| endpoints.open(&socket);
    let way = Way { local: endpoints.source, opened: &opened };
    let found = look_up(endpoints.target, way, request.query, request.record, left).await;
    judge(&found.map_err(|error| no_answer(&error, limit))?, request)
}

fn no_answer(error: &AskError, limit: Limit) -> Finding {
    match error {
        AskError::Timeout { .. } => Finding::new(Code::L7Tout, format!("timeout after {:?}", limit.timeout)),
        AskError::Io { source, .. } if is_local(source) => {
            Finding::new(Code::Sockerr, format!("{} here", super::io_detail(source)))
        }
        AskError::Io { source, .. } => tcp::connect_finding(source),
        error => Finding::new(Code::L7Rsp, error.to_string()),
    }
}

fn judge(found: &Found, request: &Request<'_>) -> Result<Finding, Finding> {
    let Request { query, record, expect } = request;
    let Found { rcode, is_noerror, records } = found;
    if !is_noerror {
        return Err(Finding::new(Code::L7Sts, format!("{rcode} for {query} {record}")));
    }
    let Some(first) = records.first() else {
        return Err(Finding::new(Code::L7Rsp, format!("no {record} record for {query}")));
    };
    match expect {
        Some(expect) if !records.iter().any(|record| record.contains(expect)) => {
            Err(Finding::new(Code::L7Rsp, format!("{query} {record} is {first}, not {expect}")))
        }
        _ => Ok(Finding::new(Code::L7Ok, format!("{rcode}, {record} {first}"))),
    }
}
