//! Durations as people read them: `5s`, `3m20s`, `4d2h`, `2y30d`.

/// Seconds in the two most telling units, as upstream rounds them.
pub fn human_duration(seconds: i64) -> String {
    let two = |big: i64, small: i64, b: char, s: char| {
        if small == 0 { format!("{big}{b}") } else { format!("{big}{b}{small}{s}") }
    };
    if seconds < -1 {
        return "<invalid>".to_owned();
    }
    let seconds = seconds.max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    if seconds < 120 {
        format!("{seconds}s")
    } else if minutes < 10 {
        two(minutes, seconds % 60, 'm', 's')
    } else if minutes < 180 {
        format!("{minutes}m")
    } else if hours < 8 {
        two(hours, minutes % 60, 'h', 'm')
    } else if hours < 48 {
        format!("{hours}h")
    } else if hours < 192 {
        two(days, hours % 24, 'd', 'h')
    } else if days < 730 {
        format!("{days}d")
    } else if days < 2920 {
        two(days / 365, days % 365, 'y', 'd')
    } else {
        format!("{}y", days / 365)
    }
}

#[cfg(test)]
mod tests {
    use super::human_duration;

    #[test]
    fn steps() {
        for (s, want) in [
            (-5, "<invalid>"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (200, "3m20s"),
            (660, "11m"),
            (10_800, "3h"),
            (13_000, "3h36m"),
            (100_000, "27h"),
            (180_000, "2d2h"),
            (864_000, "10d"),
            (86400 * 800, "2y70d"),
            (86400 * 365 * 9, "9y"),
        ] {
            assert_eq!(human_duration(s), want, "{s}");
        }
    }
}
