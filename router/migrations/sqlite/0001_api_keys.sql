-- API keys. The secret itself is never stored, only its HMAC under a pepper that lives outside.
CREATE TABLE api_keys (
    id TEXT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL,
    secret_hmac BLOB NOT NULL CHECK (length(secret_hmac) = 32),
    created_at INTEGER NOT NULL,
    revoked_at INTEGER
) STRICT;

-- Counts the changes of api_keys, so that a router can see cheaply that it has to read them again.
CREATE TABLE api_keys_revision (
    singleton INTEGER NOT NULL PRIMARY KEY CHECK (singleton = 0),
    revision INTEGER NOT NULL
) STRICT;
INSERT INTO api_keys_revision VALUES (0, 0);

CREATE TRIGGER api_keys_inserted AFTER INSERT ON api_keys BEGIN
    UPDATE api_keys_revision SET revision = revision + 1;
END;
CREATE TRIGGER api_keys_updated AFTER UPDATE ON api_keys BEGIN
    UPDATE api_keys_revision SET revision = revision + 1;
END;
CREATE TRIGGER api_keys_deleted AFTER DELETE ON api_keys BEGIN
    UPDATE api_keys_revision SET revision = revision + 1;
END;

-- Recognizes the pepper that the HMACs were made with. A wrong pepper would turn every key away.
CREATE TABLE pepper (
    singleton INTEGER NOT NULL PRIMARY KEY CHECK (singleton = 0),
    fingerprint BLOB NOT NULL
) STRICT;
