-- ListSpirits with name_contains, ordered by the folded name.
create index ix_spirits_name_folded on spirits (name_folded, id);
