//! A form with a file in it, as browsers send it (RFC 7578).

/// The fields of the form; a file is a field whose value is what is in it. `None`: it is no such form.
pub(super) fn fields(content_type: &str, body: &[u8]) -> Option<Vec<(String, String)>> {
    let delimiter = format!("--{}", boundary(content_type)?);
    // The first begins the form: a line's end before each makes them alike (RFC 2046 section 5.1.1).
    let body = [b"\r\n", body].concat();
    let delimiter = format!("\r\n{delimiter}");
    let mut parts = split(&body, delimiter.as_bytes()).into_iter();
    // What stands before the first is nobody's.
    parts.next()?;
    let mut fields = Vec::new();
    for part in parts {
        if part.starts_with(b"--") {
            return Some(fields);
        }
        let (head, value) = cut(part.strip_prefix(b"\r\n")?, b"\r\n\r\n")?;
        let name = name(&String::from_utf8_lossy(head))?;
        fields.push((name, String::from_utf8_lossy(value).into_owned()));
    }
    // The end is missing.
    None
}

/// What parts the fields, if it is a form of this kind.
fn boundary(content_type: &str) -> Option<&str> {
    let (kind, parameters) = content_type.split_once(';')?;
    if !kind.trim().eq_ignore_ascii_case("multipart/form-data") {
        return None;
    }
    let given = parameters.split(';').find_map(|parameter| {
        let (name, value) = parameter.trim().split_once('=')?;
        name.eq_ignore_ascii_case("boundary").then_some(value)
    })?;
    let given = given.trim_matches('"');
    (!given.is_empty()).then_some(given)
}

/// The field's, from the head of its part.
fn name(head: &str) -> Option<String> {
    let is_it = |line: &&str| {
        let name = line.split(':').next().unwrap_or_default();
        name.eq_ignore_ascii_case("content-disposition")
    };
    let line = head.lines().find(is_it)?;
    let (_, rest) = line.split_once("; name=\"")?;
    let (name, _) = rest.split_once('"')?;
    Some(name.to_owned())
}

fn cut<'a>(bytes: &'a [u8], at: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let found = bytes.windows(at.len()).position(|window| window == at)?;
    Some((&bytes[..found], &bytes[found + at.len()..]))
}

fn split<'a>(mut bytes: &'a [u8], at: &[u8]) -> Vec<&'a [u8]> {
    let mut parts = Vec::new();
    while let Some((part, rest)) = cut(bytes, at) {
        parts.push(part);
        bytes = rest;
    }
    parts.push(bytes);
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    const TYPE: &str = "multipart/form-data; boundary=----WebKitFormBoundaryx";

    fn form(text: &str) -> Option<Vec<(String, String)>> {
        fields(TYPE, text.replace('\n', "\r\n").as_bytes())
    }

    #[test]
    fn a_file_is_a_field_like_others() {
        let sent = "------WebKitFormBoundaryx\n\
             Content-Disposition: form-data; name=\"key\"\n\nabc\n\
             ------WebKitFormBoundaryx\n\
             Content-Disposition: form-data; name=\"file\"; filename=\"a.txt\"\n\
             Content-Type: text/plain\n\njoe\nann\n\n\
             ------WebKitFormBoundaryx--\n";
        let field = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let expected = vec![field("key", "abc"), field("file", "joe\r\nann\r\n")];
        assert_eq!(form(sent), Some(expected));
        let quoted = "multipart/form-data; charset=utf-8; boundary=\"----WebKitFormBoundaryx\"";
        assert!(fields(quoted, sent.replace('\n', "\r\n").as_bytes()).is_some());
    }

    #[test]
    fn what_is_no_whole_form_is_none() {
        for sent in [
            "",
            "------WebKitFormBoundaryx\n",
            "------WebKitFormBoundaryx\nContent-Disposition: form-data; name=\"key\"\n\nabc\n",
            "------WebKitFormBoundaryx\nContent-Type: text/plain\n\nabc\n------WebKitFormBoundaryx--\n",
            "------WebKitFormBoundaryx\nno head\n------WebKitFormBoundaryx--\n",
        ] {
            assert_eq!(form(sent), None, "{sent:?}");
        }
        for kind in [
            "text/plain",
            "multipart/form-data",
            "multipart/form-data; boundary=",
        ] {
            assert_eq!(
                fields(kind, b"------WebKitFormBoundaryx--\r\n"),
                None,
                "{kind}"
            );
        }
        assert_eq!(form("------WebKitFormBoundaryx--\n"), Some(Vec::new()));
    }
}
