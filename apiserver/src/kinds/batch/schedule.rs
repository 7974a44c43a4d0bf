//! The schedule of a cron job: five fields, or one of the words that stand for them. Read here only to tell
//! whether it is right, in the words of the parser that upstream uses.

const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

/// What one field may hold.
struct Bounds {
    min: u64,
    max: u64,
    /// Names from `min` on.
    names: &'static [&'static str],
}

const FIELDS: [Bounds; 5] = [
    Bounds { min: 0, max: 59, names: &[] },
    Bounds { min: 0, max: 23, names: &[] },
    Bounds { min: 1, max: 31, names: &[] },
    Bounds { min: 1, max: 12, names: &MONTHS },
    Bounds { min: 0, max: 6, names: &DAYS },
];

/// Says what is wrong with the schedule.
pub fn check(schedule: &str) -> Result<(), String> {
    let mut spec = schedule;
    if spec.starts_with("TZ=") || spec.starts_with("CRON_TZ=") {
        // The zone is refused elsewhere; the rest is still read.
        spec = spec.split_once(' ').map_or("", |(_, rest)| rest.trim());
    }
    if spec.starts_with('@') {
        return descriptor(spec);
    }
    let fields: Vec<&str> = spec.split_whitespace().collect();
    if fields.len() != FIELDS.len() {
        return Err(format!("expected exactly 5 fields, found {}: [{}]", fields.len(), fields.join(" ")));
    }
    for (field, bounds) in fields.iter().zip(&FIELDS) {
        for part in field.split(',').filter(|p| !p.is_empty()) {
            range(part, bounds)?;
        }
    }
    Ok(())
}

fn descriptor(spec: &str) -> Result<(), String> {
    match spec {
        "@yearly" | "@annually" | "@monthly" | "@weekly" | "@daily" | "@midnight" | "@hourly" => Ok(()),
        _ => match spec.strip_prefix("@every ") {
            Some(d) if is_duration(d) => Ok(()),
            Some(d) => Err(format!("failed to parse duration {spec}: time: invalid duration {d:?}")),
            None => Err(format!("unrecognized descriptor: {spec}")),
        },
    }
}

/// A Go duration: `1h30m`.
fn is_duration(s: &str) -> bool {
    let mut rest = s.strip_prefix(['-', '+']).unwrap_or(s);
    if rest == "0" {
        return true;
    }
    let mut any = false;
    while !rest.is_empty() {
        let number = rest.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(rest.len());
        if number == 0 || rest[..number].parse::<f64>().is_err() {
            return false;
        }
        rest = &rest[number..];
        let units = ["ns", "us", "µs", "ms", "s", "m", "h"];
        let Some(unit) = units.iter().filter(|u| rest.starts_with(**u)).max_by_key(|u| u.len()) else {
            return false;
        };
        rest = &rest[unit.len()..];
        any = true;
    }
    any
}

fn number(s: &str) -> Result<u64, String> {
    match s.parse::<i64>() {
        Ok(n) if n < 0 => Err(format!("negative number ({n}) not allowed: {s}")),
        Ok(n) => Ok(n.unsigned_abs()),
        Err(_) => Err(format!("failed to parse int from {s}: strconv.Atoi: parsing {s:?}: invalid syntax")),
    }
}

fn value(s: &str, b: &Bounds) -> Result<u64, String> {
    let lower = s.to_lowercase();
    match b.names.iter().position(|n| *n == lower) {
        Some(i) => Ok(b.min + i as u64),
        None => number(s),
    }
}

fn range(part: &str, b: &Bounds) -> Result<(), String> {
    let steps: Vec<&str> = part.split('/').collect();
    let ends: Vec<&str> = steps[0].split('-').collect();
    let (start, mut end) = if matches!(ends[0], "*" | "?") {
        (b.min, b.max)
    } else {
        let start = value(ends[0], b)?;
        match ends.len() {
            1 => (start, start),
            2 => (start, value(ends[1], b)?),
            _ => return Err(format!("too many hyphens: {part}")),
        }
    };
    let step = match steps.len() {
        1 => 1,
        2 => {
            let n = number(steps[1])?;
            if ends.len() == 1 {
                end = b.max;
            }
            n
        }
        _ => return Err(format!("too many slashes: {part}")),
    };
    if start < b.min {
        return Err(format!("beginning of range ({start}) below minimum ({}): {part}", b.min));
    }
    if end > b.max {
        return Err(format!("end of range ({end}) above maximum ({}): {part}", b.max));
    }
    if start > end {
        return Err(format!("beginning of range ({start}) beyond end of range ({end}): {part}"));
    }
    if step == 0 {
        return Err(format!("step of range should be a positive number: {part}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn schedules() {
        for good in ["*/5 * * * *", "0 0 1 JAN mon-fri", "@hourly", "@every 1h30m", "1,2,3-5/2 ? * * *"] {
            assert_eq!(check(good), Ok(()), "{good}");
        }
        for (bad, why) in [
            ("61 * * * *", "end of range (61) above maximum (59): 61"),
            ("* * *", "expected exactly 5 fields, found 3: [* * *]"),
            ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
            ("5-2 * * * *", "beginning of range (5) beyond end of range (2): 5-2"),
            ("*/0 * * * *", "step of range should be a positive number: */0"),
            ("x * * * *", "failed to parse int from x: strconv.Atoi: parsing \"x\": invalid syntax"),
            ("@often", "unrecognized descriptor: @often"),
        ] {
            assert_eq!(check(bad), Err(why.to_owned()), "{bad}");
        }
    }
}
