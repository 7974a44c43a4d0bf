//! Running a program to its end and looking at what it printed.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What a program printed and how it ended.
#[derive(Debug, Clone)]
pub struct Output {
    pub line: String,
    pub stdout: String,
    pub stderr: String,
    pub code: i32,
}

/// No command of a test takes longer.
const TIMEOUT: Duration = Duration::from_secs(120);

/// Runs `command` with `stdin` as its input.
///
/// # Panics
/// If it cannot be started or does not end in time.
pub fn run(mut command: Command, stdin: Option<&str>) -> Output {
    let args: Vec<_> = command.get_args().map(|a| a.to_string_lossy().into_owned()).collect();
    let line = format!("{} {}", command.get_program().to_string_lossy(), args.join(" "));
    command.stdin(if stdin.is_some() { Stdio::piped() } else { Stdio::null() });
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap_or_else(|e| panic!("cannot run {line}: {e}"));
    if let (Some(text), Some(mut pipe)) = (stdin, child.stdin.take()) {
        // The program may end without reading everything.
        let _ = pipe.write_all(text.as_bytes());
    }
    let reader = |pipe: Option<Box<dyn std::io::Read + Send>>| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            if let Some(mut p) = pipe {
                let _ = std::io::Read::read_to_end(&mut p, &mut bytes);
            }
            String::from_utf8_lossy(&bytes).into_owned()
        })
    };
    let out = reader(child.stdout.take().map(|p| Box::new(p) as Box<dyn std::io::Read + Send>));
    let err = reader(child.stderr.take().map(|p| Box::new(p) as Box<dyn std::io::Read + Send>));
    let deadline = Instant::now() + TIMEOUT;
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(5)),
            other => {
                let _ = child.kill();
                panic!("{line} did not end in {TIMEOUT:?}: {other:?}");
            }
        }
    };
    let text = |t: std::thread::JoinHandle<String>| t.join().unwrap_or_default();
    Output { line, stdout: text(out), stderr: text(err), code: status.code().unwrap_or(-1) }
}

impl Output {
    /// The standard output of a command that must have succeeded.
    ///
    /// # Panics
    /// If it failed.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, 0, "{} failed\nstdout: {}\nstderr: {}", self.line, self.stdout, self.stderr);
        self.stdout
    }

    /// The standard error of a command that must have failed.
    ///
    /// # Panics
    /// If it succeeded.
    #[track_caller]
    pub fn fails(self) -> String {
        assert_ne!(self.code, 0, "{} must fail\nstdout: {}\nstderr: {}", self.line, self.stdout, self.stderr);
        self.stderr
    }
}
