-- last_change is the spirit's newest change number; see the table changes.
alter table spirits
    add column last_change bigint not null default 0;
