-- API keys. The secret itself is never stored, only its HMAC under a pepper that lives outside.
-- `rowid`, as SQLite has it by itself: the order of insertion.
CREATE TABLE api_keys (
    id TEXT NOT NULL PRIMARY KEY,
    rowid BIGINT NOT NULL GENERATED ALWAYS AS IDENTITY,
    name TEXT NOT NULL,
    secret_hmac BYTEA NOT NULL CHECK (length(secret_hmac) = 32),
    created_at BIGINT NOT NULL,
    revoked_at BIGINT
);

-- Counts the changes of api_keys, so that a router can see cheaply that it has to read them again.
CREATE TABLE api_keys_revision (
    singleton BIGINT NOT NULL PRIMARY KEY CHECK (singleton = 0),
    revision BIGINT NOT NULL
);
INSERT INTO api_keys_revision VALUES (0, 0);

CREATE FUNCTION count_api_keys_revision() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE api_keys_revision SET revision = revision + 1;
    RETURN NULL;
END;
$$;
CREATE TRIGGER api_keys_changed AFTER INSERT OR UPDATE OR DELETE ON api_keys
    FOR EACH ROW EXECUTE FUNCTION count_api_keys_revision();

-- Recognizes the pepper that the HMACs were made with. A wrong pepper would turn every key away.
CREATE TABLE pepper (
    singleton BIGINT NOT NULL PRIMARY KEY CHECK (singleton = 0),
    fingerprint BYTEA NOT NULL
);
