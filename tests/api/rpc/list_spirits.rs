//! `ListSpirits`: order, pages and search by name.

use elephantasm_events::grpc::pb::{
    CreateSpiritRequest, ListSpiritsRequest, ListSpiritsResponse, SoftDeleteSpiritRequest, Spirit,
    UpdateSpiritRequest,
};
use tonic::{Code, Status};

use crate::support::builders::{bad_fields, create_spirit, refused};
use crate::support::harness::TestServer;

/// Creates spirits with these names, in this order.
async fn create_spirits(server: &TestServer, names: &[&str]) -> Vec<Spirit> {
    let mut spirits = Vec::new();
    for name in names {
        let request = CreateSpiritRequest {
            name: (*name).to_owned(),
            ..CreateSpiritRequest::default()
        };
        spirits.push(create_spirit(server, request).await);
    }
    spirits
}

async fn page(server: &TestServer, request: ListSpiritsRequest) -> Result<ListSpiritsResponse, Status> {
    let response = server.spirits().list_spirits(request).await?;
    Ok(response.into_inner())
}

/// Reads the spirits of all pages, from the request's page to the last.
async fn all_pages(server: &TestServer, mut request: ListSpiritsRequest) -> Vec<Spirit> {
    let mut all = Vec::new();
    loop {
        let page = page(server, request.clone()).await.unwrap();
        assert!(!page.spirits.is_empty() || page.next_page_token.is_empty());
        all.extend(page.spirits);
        if page.next_page_token.is_empty() {
            return all;
        }
        request.page_token = page.next_page_token;
        request.offset = 0;
    }
}

fn names(spirits: &[Spirit]) -> Vec<&str> {
    spirits.iter().map(Spirit::name).collect()
}

fn contains(name: &str) -> ListSpiritsRequest {
    ListSpiritsRequest {
        name_contains: Some(name.to_owned()),
        ..ListSpiritsRequest::default()
    }
}

async fn delete(server: &TestServer, spirit_id: &str) {
    let request = SoftDeleteSpiritRequest {
        spirit_id: spirit_id.to_owned(),
        ..SoftDeleteSpiritRequest::default()
    };
    server.spirits().soft_delete_spirit(request).await.unwrap();
}

#[tokio::test]
async fn spirits_are_listed_newest_first_at_any_page_size() {
    let server = TestServer::start().await;
    let mut created = create_spirits(&server, &["a", "b", "c", "d", "e"]).await;
    created.reverse();
    for page_size in [0, 1, 2, 3, 4, 5, 6, 200] {
        let request = ListSpiritsRequest {
            page_size,
            ..ListSpiritsRequest::default()
        };
        assert_eq!(
            all_pages(&server, request).await,
            created,
            "page size {page_size}"
        );
    }
}

#[tokio::test]
async fn spirits_created_at_the_same_time_are_ordered_by_id() {
    let server = TestServer::start().await;
    let created = create_spirits(&server, &["a", "b", "c", "d", "e"]).await;
    sqlx::query("update spirits set created_at = '2026-01-01'")
        .execute(&mut server.database.connect().await)
        .await
        .unwrap();
    let request = ListSpiritsRequest {
        page_size: 2,
        ..ListSpiritsRequest::default()
    };
    let listed = all_pages(&server, request).await;
    let mut expected: Vec<&str> = created.iter().map(|spirit| spirit.id.as_str()).collect();
    expected.sort_unstable_by(|one, other| other.cmp(one));
    let ids: Vec<&str> = listed.iter().map(|spirit| spirit.id.as_str()).collect();
    assert_eq!(ids, expected);
}

#[tokio::test]
async fn name_contains_matches_by_unicode_case_folding() {
    let server = TestServer::start().await;
    create_spirits(
        &server,
        &["Straße 9", "ÉLAN", "ΣΊΣΥΦΟΣ", "Ada", "adam", "İstanbul"],
    )
    .await;
    for (name, found) in [
        ("STRASSE", &["Straße 9"][..]),
        ("straße", &["Straße 9"]),
        ("SSE 9", &["Straße 9"]),
        ("élan", &["ÉLAN"]),
        ("σίσυφος", &["ΣΊΣΥΦΟΣ"]),
        ("ADA", &["Ada", "adam"]),
        ("dam", &["adam"]),
        ("elan", &[]), // folding keeps accents
        ("adams", &[]),
    ] {
        assert_eq!(names(&all_pages(&server, contains(name)).await), found, "{name}");
    }
}

#[tokio::test]
async fn name_contains_treats_sql_wildcards_as_ordinary_characters() {
    let server = TestServer::start().await;
    create_spirits(
        &server,
        &["100%", "1000", "a_b", "axb", r"back\slash", r"100\%", "it's"],
    )
    .await;
    for (name, found) in [
        ("%", &["100%", r"100\%"][..]),
        ("0%", &["100%"]),
        ("_", &["a_b"]),
        ("a_b", &["a_b"]),
        ("\\", &[r"100\%", r"back\slash"]),
        ("'", &["it's"]),
        (".", &[]),
        ("*", &[]),
    ] {
        assert_eq!(names(&all_pages(&server, contains(name)).await), found, "{name}");
    }
}

#[tokio::test]
async fn spirits_found_by_name_are_ordered_by_folded_name_then_id() {
    let server = TestServer::start().await;
    let created = create_spirits(&server, &["b1", "B1", "a2", "A1", "Ab", "éb", "Zb", "b1"]).await;
    let same: Vec<&str> = ["b1", "B1", "b1"].to_vec(); // ids increase as spirits are created
    for page_size in [1, 2, 3, 0] {
        let request = ListSpiritsRequest {
            page_size,
            ..contains("B")
        };
        let listed = all_pages(&server, request).await;
        let mut expected = vec!["Ab"];
        expected.extend(&same);
        expected.extend(["Zb", "éb"]);
        assert_eq!(names(&listed), expected, "page size {page_size}");
        assert_eq!(listed[1].id, created[0].id);
        assert_eq!(listed[3].id, created[7].id);
    }
}

#[tokio::test]
async fn a_renamed_spirit_is_found_by_its_new_name_only() {
    let server = TestServer::start().await;
    let spirit = create_spirits(&server, &["Old"]).await.remove(0);
    let request = UpdateSpiritRequest {
        spirit_id: spirit.id,
        name: Some("GROẞ".to_owned()),
        ..UpdateSpiritRequest::default()
    };
    server.spirits().update_spirit(request).await.unwrap();
    assert_eq!(names(&all_pages(&server, contains("gross")).await), ["GROẞ"]);
    assert!(all_pages(&server, contains("old")).await.is_empty());
}

#[tokio::test]
async fn deleted_spirits_are_listed_only_with_include_deleted() {
    let server = TestServer::start().await;
    let created = create_spirits(&server, &["a1", "a2", "a3"]).await;
    delete(&server, &created[1].id).await;
    for (name_contains, all, live) in [
        (None, ["a3", "a2", "a1"], ["a3", "a1"]),
        (Some("a".to_owned()), ["a1", "a2", "a3"], ["a1", "a3"]),
    ] {
        let request = |include_deleted| ListSpiritsRequest {
            name_contains: name_contains.clone(),
            include_deleted,
            page_size: 1,
            ..ListSpiritsRequest::default()
        };
        assert_eq!(names(&all_pages(&server, request(false)).await), live);
        let listed = all_pages(&server, request(true)).await;
        assert_eq!(names(&listed), all);
        assert!(listed[1].is_deleted);
    }
}

#[tokio::test]
async fn an_offset_skips_the_first_spirits() {
    let server = TestServer::start().await;
    create_spirits(&server, &["a", "ab", "abc", "abcd"]).await;
    for (offset, found) in [
        (1, &["ab", "abc", "abcd"][..]),
        (3, &["abcd"]),
        (4, &[]),
        (i32::MAX, &[]),
    ] {
        let request = ListSpiritsRequest {
            offset,
            page_size: 2,
            ..contains("a")
        };
        assert_eq!(names(&all_pages(&server, request).await), found, "{offset}");
    }
}

#[tokio::test]
async fn paging_returns_spirits_that_exist_throughout_exactly_once() {
    let server = TestServer::start().await;
    let created = create_spirits(&server, &["a", "b", "c", "d"]).await;
    let mut request = ListSpiritsRequest {
        page_size: 2,
        ..ListSpiritsRequest::default()
    };
    let first = page(&server, request.clone()).await.unwrap();
    assert_eq!(names(&first.spirits), ["d", "c"]);
    delete(&server, &created[2].id).await; // the last spirit of the page, whose position the token holds
    create_spirits(&server, &["e"]).await;
    request.page_token = first.next_page_token;
    assert_eq!(names(&all_pages(&server, request).await), ["b", "a"]);
}

#[tokio::test]
async fn a_page_of_large_spirits_ends_early_and_paging_continues() {
    const LARGE: usize = 16 * 1024;
    const SPIRITS: usize = 150;
    let server = TestServer::start().await;
    sqlx::query(
        "insert into spirits (id, name, name_folded, description)
         select gen_random_uuid(), 'large', 'large', repeat('x', $1) from generate_series(1, $2)",
    )
    .bind(i32::try_from(LARGE).unwrap())
    .bind(i32::try_from(SPIRITS).unwrap())
    .execute(&mut server.database.connect().await)
    .await
    .unwrap();
    for request in [ListSpiritsRequest::default(), contains("large")] {
        let request = ListSpiritsRequest {
            page_size: 200,
            ..request
        };
        let first = page(&server, request.clone()).await.unwrap();
        assert!(
            (100..SPIRITS).contains(&first.spirits.len()),
            "{}",
            first.spirits.len()
        );
        assert_eq!(all_pages(&server, request).await.len(), SPIRITS);
    }
}

#[tokio::test]
async fn list_spirits_refuses_page_tokens_of_another_query() {
    let server = TestServer::start().await;
    create_spirits(&server, &["a", "ab", "abc"]).await;
    let request = ListSpiritsRequest {
        page_size: 1,
        ..contains("a")
    };
    let token = page(&server, request.clone()).await.unwrap().next_page_token;
    let mut flipped = token.clone();
    flipped.replace_range(..1, if token.starts_with('A') { "B" } else { "A" });
    for (name, other) in [
        ("another name", contains("b")),
        ("no name", ListSpiritsRequest::default()),
        (
            "with deleted spirits",
            ListSpiritsRequest {
                include_deleted: true,
                ..request.clone()
            },
        ),
    ] {
        let other = ListSpiritsRequest {
            page_token: token.clone(),
            ..other
        };
        let result = page(&server, other).await;
        let status = refused(result, Code::InvalidArgument, "INVALID_CURSOR");
        assert!(status.message().contains("page_token"), "{name}: {status:?}");
    }
    for page_token in [flipped, token[1..].to_owned(), "x".to_owned()] {
        let broken = ListSpiritsRequest {
            page_token,
            ..request.clone()
        };
        refused(
            page(&server, broken).await,
            Code::InvalidArgument,
            "INVALID_CURSOR",
        );
    }
    let equivalent = ListSpiritsRequest {
        page_token: token,
        page_size: 2,
        ..contains("A") // equal to the original when folded
    };
    assert_eq!(
        names(&page(&server, equivalent).await.unwrap().spirits),
        ["ab", "abc"]
    );
}

#[tokio::test]
async fn list_spirits_names_every_bad_field() {
    let server = TestServer::start().await;
    for (name, request, fields) in [
        ("an empty name", contains(""), &["name_contains"][..]),
        ("a long name", contains(&"x".repeat(256)), &["name_contains"]),
        ("U+0000", contains("\0"), &["name_contains"]),
        (
            "negative numbers",
            ListSpiritsRequest {
                page_size: -1,
                offset: -1,
                ..ListSpiritsRequest::default()
            },
            &["page_size", "offset"],
        ),
        (
            "a large page, and both an offset and a token",
            ListSpiritsRequest {
                page_size: 201,
                offset: 1,
                page_token: "x".to_owned(),
                ..ListSpiritsRequest::default()
            },
            &["page_size", "offset"],
        ),
    ] {
        assert_eq!(bad_fields(page(&server, request).await), fields, "{name}");
    }
}
