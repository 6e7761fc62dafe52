//! `agent`: an agent on the backend says how it is, in HAProxy's words, one line for each connection
//! (HAProxy's Configuration Manual, `agent-check`): `up`, `down`, `ready`, `drain`, `maint`, `75%`.

use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};

use super::{Endpoints, Finding, Limit, io_detail, tcp};
use crate::core::{
    admin::{Admin, Override, Weight},
    check::Code,
};

/// The longest line in bytes.
const MAX_LINE: u64 = 1_024;

/// Connects and reads a line.
pub(super) async fn check(endpoints: &Endpoints<'_>, limit: Limit) -> Result<Finding, Finding> {
    let stream = tcp::connect(endpoints, limit).await?;
    let mut line = Vec::new();
    let mut stream = BufReader::new(stream.take(MAX_LINE));
    let read = limit.or(Code::L7Tout, stream.read_until(b'\n', &mut line)).await?;
    read.map_err(|error| Finding::new(Code::L7Rsp, io_detail(&error)))?;
    judge(&String::from_utf8_lossy(&line))
}

/// What each line says is all that holds: what it leaves out is as the configuration has it.
fn judge(line: &str) -> Result<Finding, Finding> {
    let shown = line.trim();
    let (words, _) = line.split_once('#').unwrap_or((line, ""));
    let mut advice = Override::default();
    let (mut known, mut is_down) = (false, false);
    for word in words.split([' ', '\t', '\r', '\n', ',']).filter(|word| !word.is_empty()) {
        match word.to_ascii_lowercase().as_str() {
            "up" => {}
            "down" | "fail" | "failed" | "stopped" => is_down = true,
            "ready" => advice.state = Admin::Ready,
            "drain" => advice.state = Admin::Drain,
            "maint" => advice.state = Admin::Maint,
            word => match word.strip_suffix('%').and_then(|percent| percent.parse::<u16>().ok()) {
                Some(percent) => advice.weight = Some(Weight::Percent(percent.min(100) as u8)),
                None => continue,
            },
        }
        known = true;
    }
    match (known, is_down) {
        (false, _) if shown.is_empty() => Err(Finding::new(Code::L7Rsp, "the agent said nothing")),
        (false, _) => Err(Finding::new(
            Code::L7Rsp,
            format!("\"{}\" is none of an agent's words", shown.escape_debug()),
        )),
        (true, true) => Err(Finding { advice: Some(advice), ..Finding::new(Code::L7Sts, shown) }),
        (true, false) => Ok(Finding { advice: Some(advice), ..Finding::new(Code::L7Ok, shown) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn haproxys_words() {
        for (line, code, state, percent) in [
            ("up\n", Code::L7Ok, Admin::Ready, None),
            ("75%\r\n", Code::L7Ok, Admin::Ready, Some(75)),
            ("ready up 50%", Code::L7Ok, Admin::Ready, Some(50)),
            ("Drain,100%", Code::L7Ok, Admin::Drain, Some(100)),
            ("maint # at work", Code::L7Ok, Admin::Maint, None),
            ("250% maxconn:30", Code::L7Ok, Admin::Ready, Some(100)),
            ("down # the disk is full", Code::L7Sts, Admin::Ready, None),
            ("failed drain", Code::L7Sts, Admin::Drain, None),
        ] {
            let finding = judge(line).unwrap_or_else(|failure| failure);
            let advice = Override { state, weight: percent.map(Weight::Percent), ..Override::default() };
            assert_eq!((finding.code, finding.advice), (code, Some(advice)), "{line}");
            assert_eq!(finding.detail, line.trim());
        }
        for (line, detail) in [
            ("", "the agent said nothing"),
            ("HTTP/1.1 400 Bad Request\r\n", "\"HTTP/1.1 400 Bad Request\" is none of an agent's words"),
            ("# up", "\"# up\" is none of an agent's words"),
        ] {
            let Err(finding) = judge(line) else { panic!("{line}") };
            assert_eq!((finding.code, &*finding.detail, finding.advice), (Code::L7Rsp, detail, None));
        }
    }
}
