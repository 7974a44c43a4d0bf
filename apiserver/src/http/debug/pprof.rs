//! `/debug/pprof/`: what this server can tell of itself at run time. Its language has no runtime that counts
//! allocations or stacks, so that there are no Go profiles; what there is comes from the task scheduler and the kernel,
//! as text. For stacks and CPU time per function use `perf` on the process.

use std::fmt::Write as _;

use crate::http::query::Query;
use crate::http::{Response, respond};

const INDEX: &[(&str, &str)] = &[
    ("cmdline", "The command line invocation of the current program"),
    ("goroutine", "Tasks of the scheduler"),
    ("heap", "Memory of the process, by kind"),
    ("threadcreate", "Threads of the process with their CPU time"),
];

/// Upstream's profiles that need a Go runtime.
const GO_ONLY: &[&str] = &["allocs", "block", "mutex", "profile", "symbol", "trace"];

/// Answers a path from `/debug/pprof` on.
pub fn answer(path: &str, _query: &Query) -> Response {
    let name = path.strip_prefix("/debug/pprof").unwrap_or_default().trim_matches('/');
    match name {
        "" => respond::bytes(200, "text/html; charset=utf-8", index()),
        "cmdline" => {
            let args: Vec<String> = std::env::args_os().map(|a| a.to_string_lossy().into_owned()).collect();
            respond::text(200, args.join("\0"))
        }
        "goroutine" => respond::text(200, tasks()),
        "heap" => respond::text(200, memory()),
        "threadcreate" => respond::text(200, threads()),
        n if GO_ONLY.contains(&n) => respond::text(
            501,
            format!("the profile {n} needs a Go runtime, which this server does not have; use perf(1)\n"),
        ),
        _ => respond::text(404, "Unknown profile\n"),
    }
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
        let code = |p: &str| answer(p, &Query::default()).status().as_u16();
        for (path, wanted) in [
            ("/debug/pprof/", 200),
            ("/debug/pprof/heap", 200),
            ("/debug/pprof/threadcreate", 200),
            ("/debug/pprof/profile", 501),
            ("/debug/pprof/nonsense", 404),
        ] {
            assert_eq!(code(path), wanted, "{path}");
        }
        assert!(memory().contains("VmRSS") && threads().contains("user"));
    }
}
