//! Owns the comparison of two results: the same rows, perhaps in another order, or others.
//!
//! Invariant: rows are compared by their bytes, and each as often as it occurs. PostgreSQL may give
//! rows in any order where the query asks for none (a scan that joins another one under way does),
//! so two honest answers can differ in it; in anything else they cannot.

/// How a result differs from another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compared {
    Same,
    /// The same rows in another order.
    Reordered,
    /// Rows that only one of them has, and how many rows each has.
    Different {
        only_left: usize,
        only_right: usize,
        left: usize,
        right: usize,
    },
    /// One of them is no JSON array.
    Malformed,
}

/// Compares two JSON arrays as texts.
pub fn compare(left: &[u8], right: &[u8]) -> Compared {
    if left == right {
        return Compared::Same;
    }
    let (Some(mut left), Some(mut right)) = (rows(left), rows(right)) else {
        return Compared::Malformed;
    };
    left.sort_unstable();
    right.sort_unstable();
    let common = common(&left, &right);
    if common == left.len() && common == right.len() {
        return Compared::Reordered;
    }
    Compared::Different {
        only_left: left.len() - common,
        only_right: right.len() - common,
        left: left.len(),
        right: right.len(),
    }
}

/// How many rows two sorted lists have in common.
fn common(left: &[&[u8]], right: &[&[u8]]) -> usize {
    let (mut i, mut j, mut common) = (0, 0, 0);
    while let (Some(a), Some(b)) = (left.get(i), right.get(j)) {
        let order = a.cmp(b);
        common += usize::from(order.is_eq());
        i += usize::from(order.is_le());
        j += usize::from(order.is_ge());
    }
    common
}

/// The texts of an array's elements; None if it is none.
fn rows(array: &[u8]) -> Option<Vec<&[u8]>> {
    let inner = array.trim_ascii().strip_prefix(b"[")?.strip_suffix(b"]")?;
    if inner.trim_ascii().is_empty() {
        return Some(Vec::new());
    }
    let mut rows = Vec::new();
    let (mut start, mut depth, mut in_string, mut escaped) = (0, 0usize, false, false);
    for (place, byte) in inner.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.checked_sub(1)?,
            b',' if depth == 0 => {
                rows.push(inner[start..place].trim_ascii());
                start = place + 1;
            }
            _ => {}
        }
    }
    rows.push(inner[start..].trim_ascii());
    (depth == 0 && !in_string).then_some(rows)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_lost_or_changed_row_is_a_difference() {
        // Danger: a stale entry passes for an honest one.
        let compared = |left: &str, right: &str| compare(left.as_bytes(), right.as_bytes());
        let different = |only_left, only_right, left, right| Compared::Different {
            only_left,
            only_right,
            left,
            right,
        };
        assert_eq!(compared(r#"[{"v":1}]"#, r#"[{"v":1}]"#), Compared::Same);
        assert_eq!(compared(r#"[{"v":1}]"#, r#"[{"v":2}]"#), different(1, 1, 1, 1));
        assert_eq!(compared(r#"[{"v":1}]"#, "[]"), different(1, 0, 1, 0));
        assert_eq!(compared("[]", r#"[{"v":1}, {"v":1}]"#), different(0, 2, 0, 2));
        let (once, twice) = (r#"[{"v":1}, {"v":2}]"#, r#"[{"v":1}, {"v":2}, {"v":1}]"#);
        assert_eq!(compared(once, twice), different(0, 1, 2, 3));
        assert_eq!(compared(r#"[{"v":"a, b"}]"#, r#"[{"v":"b, a"}]"#), different(1, 1, 1, 1));
        assert_eq!(compared(r#"[{"v":[1, 2]}]"#, r#"[{"v":[2, 1]}]"#), different(1, 1, 1, 1));
    }

    #[test]
    fn another_order_is_told_from_other_rows() {
        // Danger: an alarm at night because PostgreSQL began a scan elsewhere.
        let left = r#"[{"v":"a\"],"}, {"v":{"w":[1, "}"]}}, {"v":null}]"#;
        let right = r#"[{"v":null}, {"v":"a\"],"}, {"v":{"w":[1, "}"]}}]"#;
        assert_eq!(compare(left.as_bytes(), right.as_bytes()), Compared::Reordered);
    }

    #[test]
    fn what_is_no_array_is_not_compared() {
        // Danger: a value that somebody wrote by hand passes for rows.
        for other in ["", "[", "]", "{}", r#"[{"v":1]"#, r#"[{"v":"1}]"#, "[}]"] {
            assert_eq!(compare(other.as_bytes(), b"[]"), Compared::Malformed, "{other}");
        }
    }

    fn row() -> impl Strategy<Value = String> {
        "[a,\\\\\"{}\\[\\] ]{0,4}".prop_map(|text| {
            let escaped = text.replace('\\', "\\\\").replace('"', "\\\"");
            format!("{{\"v\":\"{escaped}\"}}")
        })
    }

    proptest! {
        #[test]
        fn rows_are_a_bag(rows in prop::collection::vec(row(), 0..6), seed in any::<u64>()) {
            // Danger: texts with brackets and commas in them are cut into other rows.
            let mut shuffled = rows.clone();
            if !rows.is_empty() {
                shuffled.rotate_left(seed as usize % rows.len());
            }
            let array = |rows: &[String]| format!("[{}]", rows.join(", ")).into_bytes();
            let compared = compare(&array(&rows), &array(&shuffled));
            prop_assert!(matches!(compared, Compared::Same | Compared::Reordered), "{compared:?}");
            shuffled.push("{\"v\":1}".to_owned());
            let expected = Compared::Different {
                only_left: 0, only_right: 1, left: rows.len(), right: rows.len() + 1,
            };
            prop_assert_eq!(compare(&array(&rows), &array(&shuffled)), expected);
        }
    }
}
