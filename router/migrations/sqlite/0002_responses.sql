-- Responses that can be asked for again and continued. What a response continues is not repeated
-- in it: a conversation is the chain of `previous`.
CREATE TABLE responses (
    id TEXT NOT NULL PRIMARY KEY,
    owner TEXT NOT NULL,
    previous TEXT,
    status TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    num_bytes INTEGER NOT NULL,
    -- The response as it is answered, without its output.
    body TEXT NOT NULL
) STRICT;
CREATE INDEX responses_expiry ON responses (expires_at);
CREATE INDEX responses_age ON responses (created_at, num_bytes);

-- What went in, then what came out.
CREATE TABLE response_items (
    response TEXT NOT NULL REFERENCES responses (id) ON DELETE CASCADE,
    position INTEGER NOT NULL,
    is_output INTEGER NOT NULL CHECK (is_output IN (0, 1)),
    id TEXT NOT NULL,
    body TEXT NOT NULL,
    PRIMARY KEY (response, position)
) STRICT;
CREATE INDEX response_items_id ON response_items (id);
