//! `/debug/pprof/`: what a daemon can tell of itself at run time. Its language has no runtime that counts allocations or
//! stacks, so that there are no Go profiles; what there is comes from the task scheduler and the kernel, as text. For
//! stacks and CPU time per function use `perf` on the process. Who asks must have been authorized before.

use std::fmt::Write as _;

use http::StatusCode;

const INDEX: &[(&str, &str)] = &[
    ("cmdline", "The command line invocation of the current program"),
    ("goroutine", "Tasks of the scheduler"),
    ("heap", "Memory of the process, by kind"),
    ("threadcreate", "Threads of the process with their CPU time"),
];

/// Upstream's profiles that need a Go runtime.
const GO_ONLY: &[&str] = &["allocs", "block", "mutex", "profile", "symbol", "trace"];

/// An answer about this process.
#[derive(Debug)]
pub struct Profile {
    pub status: StatusCode,
    pub content_type: &'static str,
    pub body: String,
}

/// Answers a path from `/debug/pprof` on; none for others.
pub fn answer(path: &str) -> Option<Profile> {
    let name = path.strip_prefix("/debug/pprof").filter(|r| r.is_empty() || r.starts_with('/'))?;
    let of = |status, body| Profile { status, content_type: "text/plain; charset=utf-8", body };
    Some(match name.trim_matches('/') {
        "" => Profile { content_type: "text/html; charset=utf-8", ..of(StatusCode::OK, index()) },
        "cmdline" => {
            let args: Vec<String> = std::env::args_os().map(|a| a.to_string_lossy().into_owned()).collect();
            of(StatusCode::OK, args.join("\0"))
        }
        "goroutine" => of(StatusCode::OK, tasks()),
        "heap" => of(StatusCode::OK, memory()),
        "threadcreate" => of(StatusCode::OK, threads()),
        n if GO_ONLY.contains(&n) => of(
            StatusCode::NOT_IMPLEMENTED,
            format!("the profile {n} needs a Go runtime, which this daemon does not have; use perf(1)\n"),
        ),
        _ => of(StatusCode::NOT_FOUND, "Unknown profile\n".to_owned()),
    })
}

fn index() -> String {
    let mut page =
        "<html>\n<head>\n<title>/debug/pprof/</title>\n</head>\n<body>\n/debug/pprof/\n<table>\n".to_owned();
    for (name, what) in INDEX {
        let _ = writeln!(page, "<tr><td><a href='{name}?debug=1'>{name}</a></td><td>{what}</td></tr>");
    }
    page.push_str("</table>\n</body>\n</html>\n");
    page
}

fn tasks() -> String {
    let Ok(runtime) = tokio::runtime::Handle::try_current() else { return "no scheduler\n".to_owned() };
    let m = runtime.metrics();
    format!(
        "tasks alive: {}\nworker threads: {}\ntasks waiting in the global queue: {}\n",
        m.num_alive_tasks(),
        m.num_workers(),
        m.global_queue_depth()
    )
}

fn memory() -> String {
    let mut out = String::new();
    for (file, wanted) in [
        (
            "/proc/self/status",
            &["VmPeak", "VmSize", "VmHWM", "VmRSS", "RssAnon", "RssFile", "VmData", "VmSwap"][..],
        ),
        ("/proc/self/smaps_rollup", &["Pss", "Pss_Anon", "Pss_File", "Private_Dirty", "AnonHugePages"][..]),
    ] {
        // A file that is not there has nothing to tell.
        let text = std::fs::read_to_string(file).unwrap_or_default();
        for line in text.lines() {
            if line.split_once(':').is_some_and(|(k, _)| wanted.contains(&k)) {
                out.push_str(line);
                out.push('\n');
            }
        }
    }
    out
}

fn threads() -> String {
    let mut out = String::new();
    let Ok(dir) = std::fs::read_dir("/proc/self/task") else { return "no threads can be read\n".to_owned() };
    for entry in dir.flatten() {
        let read = |f: &str| std::fs::read_to_string(entry.path().join(f)).unwrap_or_default();
        let stat = read("stat");
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |i: usize| fields.get(i).and_then(|f| f.parse::<u64>().ok()).unwrap_or(0);
        let _ = writeln!(
            out,
            "{}\t{}\tuser {} ms\tsystem {} ms",
            entry.file_name().to_string_lossy(),
            read("comm").trim_end(),
            ticks(11) * 10,
            ticks(12) * 10
        );
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profiles() {
        let code = |p: &str| answer(p).expect("a profile").status.as_u16();
        for (path, wanted) in [
            ("/debug/pprof/", 200),
            ("/debug/pprof/heap", 200),
            ("/debug/pprof/threadcreate", 200),
            ("/debug/pprof/profile", 501),
            ("/debug/pprof/nonsense", 404),
        ] {
            assert_eq!(code(path), wanted, "{path}");
        }
        assert!(answer("/debug/pproffoo").is_none() && answer("/debug").is_none());
        assert!(memory().contains("VmRSS") && threads().contains("user"));
    }
}
