//! Reads the pages of a list.

/// The largest page.
const PAGE_SIZE_MAX: usize = 200;

/// The page to request.
pub(super) struct Page {
    pub(super) page_size: i32,
    pub(super) page_token: String,
}

/// Reads pages by `read`, which returns the items of a page and the token of the next, and passes each item to `take`,
/// at most `limit` of them.
pub(super) async fn read_pages<T>(
    limit: usize,
    mut read: impl AsyncFnMut(Page) -> anyhow::Result<(Vec<T>, String)>,
    mut take: impl FnMut(T) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut left = limit;
    let mut page_token = String::new();
    while left > 0 {
        let page_size = i32::try_from(left.min(PAGE_SIZE_MAX)).unwrap_or(i32::MAX);
        let (items, next) = read(Page {
            page_size,
            page_token,
        })
        .await?;
        for item in items.into_iter().take(left) {
            left -= 1;
            take(item)?;
        }
        if next.is_empty() {
            break;
        }
        page_token = next;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads pages of up to 3 items with these sizes; returns the requested sizes and the items.
    async fn read(limit: usize, sizes: &[usize]) -> (Vec<i32>, Vec<usize>) {
        let (mut requested, mut taken) = (Vec::new(), Vec::new());
        let read = async |page: Page| {
            let number: usize = page.page_token.parse().unwrap_or_default();
            requested.push(page.page_size);
            let next = if number + 1 < sizes.len() {
                (number + 1).to_string()
            } else {
                String::new()
            };
            Ok((vec![number; sizes[number]], next))
        };
        let take = |item| {
            taken.push(item);
            Ok(())
        };
        read_pages(limit, read, take).await.expect("no page fails");
        (requested, taken)
    }

    #[tokio::test]
    async fn pages_are_read_to_the_end_or_to_the_limit() {
        assert_eq!(
            read(1_000, &[2, 0, 1]).await,
            (vec![200, 200, 200], vec![0, 0, 2])
        );
        assert_eq!(read(3, &[2, 2, 1]).await, (vec![3, 1], vec![0, 0, 1]));
        assert_eq!(read(0, &[1]).await, (vec![], vec![]));
    }
}
