-- API keys: who may call. Of the secret only its hash is kept; the prefix names the key.
-- Rows are never deleted: that a key was ever made is what keeps authentication on.
create table keys (
    prefix        text        not null collate "C",
    secret_sha256 bytea       not null,
    name          text        not null,
    role          text        not null,
    spirit_ids    uuid[],
    expires_at    timestamptz,
    revoked_at    timestamptz,
    created_at    timestamptz not null default now(),
    constraint pk_keys primary key (prefix),
    constraint ck_keys_secret_sha256 check (octet_length(secret_sha256) = 32),
    constraint ck_keys_role check (role in ('reader', 'writer', 'admin')),
    constraint ck_keys_spirit_ids check (cardinality(spirit_ids) > 0)
);
