//! A list that stands in a text.

/// The items of a list of texts and numbers, as JSON or Python (`repr`) writes it.
pub(super) fn list(text: &str) -> Option<Vec<String>> {
    let mut rest = text.trim().strip_prefix('[')?.trim_start();
    let mut items = Vec::new();
    while !rest.starts_with(']') {
        let item;
        (item, rest) = self::item(rest)?;
        items.push(item);
        rest = rest.trim_start();
        rest = match rest.strip_prefix(',') {
            Some(next) => next.trim_start(),
            None if rest.starts_with(']') => rest,
            None => return None,
        };
    }
    (rest.trim() == "]").then_some(items)
}

fn item(text: &str) -> Option<(String, &str)> {
    match text.chars().next()? {
        quote @ ('\'' | '"') => quoted(&text[1..], quote),
        _ => {
            let (number, rest) = text.split_at(text.find([',', ']'])?);
            let number = number.trim();
            number.parse::<f64>().ok()?;
            Some((number.to_owned(), rest))
        }
    }
}

/// Up to the quote that ends it.
fn quoted(text: &str, quote: char) -> Option<(String, &str)> {
    let mut item = String::new();
    let mut letters = text.chars();
    loop {
        match letters.next()? {
            letter if letter == quote => return Some((item, letters.as_str())),
            '\\' => escape(&mut letters, &mut item)?,
            letter => item.push(letter),
        }
    }
}

/// What stands after a backslash. One that begins no escape is itself.
fn escape(letters: &mut std::str::Chars, item: &mut String) -> Option<()> {
    match letters.next()? {
        letter @ ('\\' | '\'' | '"') => item.push(letter),
        'n' => item.push('\n'),
        'r' => item.push('\r'),
        't' => item.push('\t'),
        'x' => item.push(code(letters, 2)?),
        'u' => item.push(code(letters, 4)?),
        'U' => item.push(code(letters, 8)?),
        other => item.extend(['\\', other]),
    }
    Some(())
}

fn code(letters: &mut std::str::Chars, digits: usize) -> Option<char> {
    let code = letters.as_str().get(..digits)?;
    letters.nth(digits - 1);
    char::from_u32(u32::from_str_radix(code, 16).ok()?)
}
