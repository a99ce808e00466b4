//! What was probably meant by a name that does not exist.

/// The known name nearest to `written`, if one is near enough to be a slip of the hand.
pub(crate) fn nearest<'n>(written: &str, known: impl IntoIterator<Item = &'n str>) -> Option<&'n str> {
    let written = written.to_lowercase();
    let allowed = (written.chars().count() / 3).max(1);
    known
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(&written, &name.to_lowercase()), name))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// The line of help that offers the nearest name.
pub(crate) fn offer<'n>(written: &str, known: impl IntoIterator<Item = &'n str>) -> Option<String> {
    nearest(written, known).map(|name| format!("did you mean \"{name}\"?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offers_slips_and_nothing_else() {
        let known = ["weight", "priority", "max_calls"];
        assert_eq!(nearest("wieght", known), Some("weight"));
        assert_eq!(nearest("Max_Call", known), Some("max_calls"));
        assert_eq!(nearest("colour", known), None);
        assert_eq!(offer("priorty", known).as_deref(), Some("did you mean \"priority\"?"));
    }
}
