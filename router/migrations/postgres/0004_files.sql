-- Files that clients have uploaded, and results of batches. What they contain is an object elsewhere,
-- whole before its row is written.
CREATE TABLE files (
    id TEXT NOT NULL PRIMARY KEY,
    owner TEXT NOT NULL,
    purpose TEXT NOT NULL,
    filename TEXT NOT NULL,
    num_bytes BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    -- NULL: kept until it is deleted.
    expires_at BIGINT,
    object TEXT NOT NULL UNIQUE
);
CREATE INDEX files_owner ON files (owner, created_at, id);
CREATE INDEX files_expiry ON files (expires_at);

-- Objects that belong to no file: those that are being written, and those that are to be deleted.
CREATE TABLE loose_objects (
    object TEXT NOT NULL PRIMARY KEY,
    -- Nobody writes or reads it after this.
    due_at BIGINT NOT NULL
);
CREATE INDEX loose_objects_due ON loose_objects (due_at);
