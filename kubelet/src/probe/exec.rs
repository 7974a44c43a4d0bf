//! Exec probes and hooks: a command inside the container, through the runtime.

use std::time::Duration;

use crate::cri::Cri;

/// Success and output; `Err` where the command could not be run at all.
pub async fn run(
    cri: &Cri,
    id: &str,
    command: &[String],
    timeout: Duration,
) -> Result<(bool, String), String> {
    match cri.exec_sync(id, command.to_vec(), timeout).await {
        Ok(answer) => {
            let mut output = answer.stdout;
            output.extend_from_slice(&answer.stderr);
            let text = String::from_utf8_lossy(&output).into_owned();
            Ok((answer.exit_code == 0, text))
        }
        // Running out of time is the probe's failure, not ours.
        Err(e) if e.timed_out() => Ok((
            false,
            format!(
                "command timed out: {:?} timed out after {}",
                command.join(" "),
                component_base::duration::GoDuration(timeout)
            ),
        )),
        Err(e) => Err(e.message().to_owned()),
    }
}
