BEGIN TRANSACTION;
CREATE TABLE answers (
  id INTEGER PRIMARY KEY AUTOINCREMENT, user TEXT NOT NULL REFERENCES users(name),
  decision_id INTEGER NOT NULL UNIQUE REFERENCES decisions(id), answer TEXT NOT NULL,
  verdict TEXT NOT NULL, generalise TEXT NOT NULL, meant_json TEXT NOT NULL, judgement_id INTEGER REFERENCES judgements(id),
  source TEXT NOT NULL, answered_at TEXT NOT NULL,
  number INTEGER NOT NULL, prev_hash TEXT NOT NULL, hash TEXT NOT NULL
);
CREATE TABLE decisions (
  id INTEGER PRIMARY KEY AUTOINCREMENT, user TEXT NOT NULL REFERENCES users(name),
  request_json TEXT NOT NULL, verdict TEXT NOT NULL CHECK (verdict IN ('share', 'withhold', 'ask')),
  rule TEXT, outcome_json TEXT NOT NULL, proof_json TEXT NOT NULL, ontology_hash TEXT NOT NULL,
  latency_us INTEGER NOT NULL, created_at TEXT NOT NULL,
  number INTEGER NOT NULL, prev_hash TEXT NOT NULL, hash TEXT NOT NULL
);
INSERT INTO "decisions" VALUES(1,'ann','{"data":["phone"],"principle":"UNSPEC","purpose":"UNSPEC","recipient":"bistro","sender":"self","subject":"self"}','ask',NULL,'{"against":[],"approved":[],"denied":[],"dropped":[],"premises":[],"reason":"no_premise","rule":null,"suggestion":null,"undecided":[],"verdict":"ask"}','{"against":[],"dropped":[],"engine":"ariel_jax 0.1.0","items":{"approved":[],"denied":[],"undecided":[]},"last_judgement":0,"mapper":"ids","mapping":[{"by":"id","input":"phone","node":"phone","score":1.0,"slot":"data"},{"by":"id","input":"self","node":"self","score":1.0,"slot":"subject"},{"by":"id","input":"self","node":"self","score":1.0,"slot":"sender"},{"by":"id","input":"bistro","node":"bistro","score":1.0,"slot":"recipient"},{"by":"id","input":"UNSPEC","node":"UNSPEC","score":1.0,"slot":"purpose"},{"by":"id","input":"UNSPEC","node":"UNSPEC","score":1.0,"slot":"principle"}],"nodes_sha256":"4e0d312c686faff2d3455cc26029fd7a5cbee7c707934ccc7a317b68ffb8ef2b","ontology_hash":"ae453bdb0b8884efbcea73345159abea166774f9b07914e56689a36a84b193cc","paths":[],"policy":{"bundle":"joint","conflict":"escalate","min_support":1,"reliability":"strict","trust_proposed":false,"veto_share":null,"veto_withhold":null},"premises":[],"prev_decision_hash":"0000000000000000000000000000000000000000000000000000000000000000","reason":"no_premise","request":{"nodes":{"data":["phone"],"principle":["UNSPEC"],"purpose":["UNSPEC"],"recipient":["bistro"],"sender":["self"],"subject":["self"]},"text_sha256":"6b5c064a426a84fb7984bd47e8f764d108b67f046a8493552c53845ef57cc47f"},"rule":null,"score":null,"suggestion":null,"support":0,"user":"ann","verdict":"ask","version":1}','ae453bdb0b8884efbcea73345159abea166774f9b07914e56689a36a84b193cc',26523,'2025-06-15T15:06:40.000+00:00',2,'704609448ddf7fc29932ad31b7301bd1e4896a8e519de0057f3610ea356e6362','4bcea3f6116e4aafcc7e20a9fd2c398d81c161f7989610ac533b6fc0371ee101');
INSERT INTO "decisions" VALUES(2,'ann','{"data":["phone"],"principle":"UNSPEC","purpose":"UNSPEC","recipient":"bistro","sender":"self","subject":"self"}','share','R0','{"against":[],"approved":[],"denied":[],"dropped":[],"premises":[1],"reason":"","rule":"R0","suggestion":null,"undecided":[],"verdict":"share"}','{"against":[],"dropped":[],"engine":"ariel_jax 0.1.0","items":{"approved":[],"denied":[],"undecided":[]},"last_judgement":1,"mapper":"ids","mapping":[{"by":"id","input":"phone","node":"phone","score":1.0,"slot":"data"},{"by":"id","input":"self","node":"self","score":1.0,"slot":"subject"},{"by":"id","input":"self","node":"self","score":1.0,"slot":"sender"},{"by":"id","input":"bistro","node":"bistro","score":1.0,"slot":"recipient"},{"by":"id","input":"UNSPEC","node":"UNSPEC","score":1.0,"slot":"purpose"},{"by":"id","input":"UNSPEC","node":"UNSPEC","score":1.0,"slot":"principle"}],"nodes_sha256":"4e0d312c686faff2d3455cc26029fd7a5cbee7c707934ccc7a317b68ffb8ef2b","ontology_hash":"ae453bdb0b8884efbcea73345159abea166774f9b07914e56689a36a84b193cc","paths":[{"from":"phone","items":["phone"],"premise":1,"slot":"data","steps":[],"to":"phone"},{"from":"self","items":["phone"],"premise":1,"slot":"subject","steps":[],"to":"self"},{"from":"self","items":["phone"],"premise":1,"slot":"sender","steps":[],"to":"self"},{"from":"bistro","items":["phone"],"premise":1,"slot":"recipient","steps":[],"to":"bistro"},{"from":"UNSPEC","items":["phone"],"premise":1,"slot":"purpose","steps":[],"to":"UNSPEC"},{"from":"UNSPEC","items":["phone"],"premise":1,"slot":"principle","steps":[],"to":"UNSPEC"}],"policy":{"bundle":"joint","conflict":"escalate","min_support":1,"reliability":"strict","trust_proposed":false,"veto_share":null,"veto_withhold":null},"premises":[{"at":"2025-06-15T15:06:40.000+00:00","items":["phone"],"judgement_id":1,"nodes":{"data":["phone"],"principle":["UNSPEC"],"purpose":["UNSPEC"],"recipient":["bistro"],"sender":["self"],"subject":["self"]},"source":"user_cli","value":"appropriate"}],"prev_decision_hash":"4bcea3f6116e4aafcc7e20a9fd2c398d81c161f7989610ac533b6fc0371ee101","reason":"","request":{"nodes":{"data":["phone"],"principle":["UNSPEC"],"purpose":["UNSPEC"],"recipient":["bistro"],"sender":["self"],"subject":["self"]},"text_sha256":"6b5c064a426a84fb7984bd47e8f764d108b67f046a8493552c53845ef57cc47f"},"rule":"R0","score":null,"suggestion":null,"support":1,"user":"ann","verdict":"share","version":1}','ae453bdb0b8884efbcea73345159abea166774f9b07914e56689a36a84b193cc',1954,'2025-06-15T15:06:40.000+00:00',5,'0af88013f8570dfc213048ee0db9918ff8b68b7b5c5a83bb618bea6a1546d5f7','bb259daf3b92a6032ebea4d643a0db7e7e833f7f0d57e60b10745ea7afe8228b');
INSERT INTO "decisions" VALUES(3,'ann','{"data":["city"],"principle":"UNSPEC","purpose":"UNSPEC","recipient":"bistro","sender":"self","subject":"self"}','ask',NULL,'{"against":[],"approved":[],"denied":[],"dropped":[],"premises":[],"reason":"no_premise","rule":null,"suggestion":null,"undecided":[],"verdict":"ask"}','{"against":[],"dropped":[],"engine":"ariel_jax 0.1.0","items":{"approved":[],"denied":[],"undecided":[]},"last_judgement":1,"mapper":"ids","mapping":[{"by":"id","input":"city","node":"city","score":1.0,"slot":"data"},{"by":"id","input":"self","node":"self","score":1.0,"slot":"subject"},{"by":"id","input":"self","node":"self","score":1.0,"slot":"sender"},{"by":"id","input":"bistro","node":"bistro","score":1.0,"slot":"recipient"},{"by":"id","input":"UNSPEC","node":"UNSPEC","score":1.0,"slot":"purpose"},{"by":"id","input":"UNSPEC","node":"UNSPEC","score":1.0,"slot":"principle"}],"nodes_sha256":"4e0d312c686faff2d3455cc26029fd7a5cbee7c707934ccc7a317b68ffb8ef2b","ontology_hash":"ae453bdb0b8884efbcea73345159abea166774f9b07914e56689a36a84b193cc","paths":[],"policy":{"bundle":"joint","conflict":"escalate","min_support":1,"reliability":"strict","trust_proposed":false,"veto_share":null,"veto_withhold":null},"premises":[],"prev_decision_hash":"bb259daf3b92a6032ebea4d643a0db7e7e833f7f0d57e60b10745ea7afe8228b","reason":"no_premise","request":{"nodes":{"data":["city"],"principle":["UNSPEC"],"purpose":["UNSPEC"],"recipient":["bistro"],"sender":["self"],"subject":["self"]},"text_sha256":""},"rule":null,"score":null,"suggestion":null,"support":0,"user":"ann","verdict":"ask","version":1}','ae453bdb0b8884efbcea73345159abea166774f9b07914e56689a36a84b193cc',1281,'2025-06-15T15:06:40.000+00:00',6,'bb259daf3b92a6032ebea4d643a0db7e7e833f7f0d57e60b10745ea7afe8228b','6a6a81d0143bc06b3eb349f27443c6ef668e39afa6e930dfd25c0e96cb71b229');
CREATE TABLE edges (
  user TEXT NOT NULL REFERENCES users(name), id INTEGER NOT NULL, slot TEXT NOT NULL, type TEXT NOT NULL,
  src TEXT NOT NULL, dst TEXT NOT NULL, scope TEXT, status TEXT NOT NULL, origin TEXT NOT NULL,
  reason TEXT NOT NULL, created_at TEXT NOT NULL, retracted_at TEXT, PRIMARY KEY (user, id)
);
CREATE TABLE escalations (
  id INTEGER PRIMARY KEY AUTOINCREMENT, user TEXT NOT NULL REFERENCES users(name),
  decision_id INTEGER NOT NULL UNIQUE REFERENCES decisions(id), question TEXT NOT NULL,
  created_at TEXT NOT NULL, number INTEGER NOT NULL, prev_hash TEXT NOT NULL, hash TEXT NOT NULL
);
INSERT INTO "escalations" VALUES(1,'ann',1,'{"already_shared_with_recipient":{},"closest":[],"nodes":{"data":["phone"],"principle":"UNSPEC","purpose":"UNSPEC","recipient":"bistro","sender":"self","subject":"self"},"reason":"no_premise","suggestion":null,"text":"May this be given out: Phone to Bistro?","unmapped":[],"why":"None of your earlier judgements covers this.","wider":{"principle":["ANY"],"purpose":["ANY"]}}','2025-06-15T15:06:40.000+00:00',3,'4bcea3f6116e4aafcc7e20a9fd2c398d81c161f7989610ac533b6fc0371ee101','4f3fb7880828c6ed81936241e4b2ec3016d12988fe90cb259a7591b4cda0c970');
INSERT INTO "escalations" VALUES(2,'ann',3,'{"already_shared_with_recipient":{"phone":1},"closest":[],"nodes":{"data":["city"],"principle":"UNSPEC","purpose":"UNSPEC","recipient":"bistro","sender":"self","subject":"self"},"reason":"no_premise","suggestion":null,"text":"May this be given out: City to Bistro?","unmapped":[],"why":"None of your earlier judgements covers this.","wider":{"principle":["ANY"],"purpose":["ANY"]}}','2025-06-15T15:06:40.000+00:00',7,'6a6a81d0143bc06b3eb349f27443c6ef668e39afa6e930dfd25c0e96cb71b229','c8f4e4497a9164156e596a2651d0caf7a2b5ee64f1bc9b29c63e99a4e1e61b84');
CREATE TABLE judgements (
  id INTEGER PRIMARY KEY AUTOINCREMENT, user TEXT NOT NULL REFERENCES users(name),
  nodes_json TEXT NOT NULL, text_sha256 TEXT NOT NULL,
  value TEXT NOT NULL CHECK (value IN ('appropriate', 'inappropriate', 'ask')),
  source TEXT NOT NULL CHECK (source IN
    ('user_elicited', 'user_cli', 'user_ui', 'imported_by_user', 'agent_claimed')),
  channel TEXT NOT NULL, created_at TEXT NOT NULL, superseded_by INTEGER, supersedes TEXT NOT NULL,
  note TEXT NOT NULL,
  number INTEGER NOT NULL, prev_hash TEXT NOT NULL, hash TEXT NOT NULL
);
INSERT INTO "judgements" VALUES(1,'ann','{"data":["phone"],"principle":"UNSPEC","purpose":"UNSPEC","recipient":"bistro","sender":"self","subject":"self"}','6b5c064a426a84fb7984bd47e8f764d108b67f046a8493552c53845ef57cc47f','appropriate','user_cli','','2025-06-15T15:06:40.000+00:00',NULL,'[]','',4,'4f3fb7880828c6ed81936241e4b2ec3016d12988fe90cb259a7591b4cda0c970','0af88013f8570dfc213048ee0db9918ff8b68b7b5c5a83bb618bea6a1546d5f7');
CREATE TABLE nodes (
  user TEXT NOT NULL REFERENCES users(name), slot TEXT NOT NULL, id TEXT NOT NULL, label TEXT NOT NULL,
  aliases TEXT NOT NULL, definition TEXT NOT NULL, PRIMARY KEY (user, slot, id)
);
INSERT INTO "nodes" VALUES('ann','data','city','City','[]','');
INSERT INTO "nodes" VALUES('ann','data','phone','Phone','[]','');
INSERT INTO "nodes" VALUES('ann','subject','self','Self','[]','');
INSERT INTO "nodes" VALUES('ann','sender','self','Self','[]','');
INSERT INTO "nodes" VALUES('ann','recipient','bistro','Bistro','[]','');
CREATE TABLE ontologies (hash TEXT PRIMARY KEY, json TEXT NOT NULL);
INSERT INTO "ontologies" VALUES('ae453bdb0b8884efbcea73345159abea166774f9b07914e56689a36a84b193cc','{"edges":[],"nodes":[{"aliases":[],"definition":"","id":"city","label":"City","origin":"core","slot":"data"},{"aliases":[],"definition":"","id":"phone","label":"Phone","origin":"core","slot":"data"},{"aliases":[],"definition":"","id":"self","label":"Self","origin":"core","slot":"subject"},{"aliases":[],"definition":"","id":"self","label":"Self","origin":"core","slot":"sender"},{"aliases":[],"definition":"","id":"bistro","label":"Bistro","origin":"core","slot":"recipient"}],"version":1}');
CREATE TABLE ontology_versions (
  id INTEGER PRIMARY KEY AUTOINCREMENT, user TEXT NOT NULL REFERENCES users(name),
  ontology_hash TEXT NOT NULL REFERENCES ontologies(hash), why TEXT NOT NULL, created_at TEXT NOT NULL,
  number INTEGER NOT NULL, prev_hash TEXT NOT NULL, hash TEXT NOT NULL
);
INSERT INTO "ontology_versions" VALUES(1,'ann','ae453bdb0b8884efbcea73345159abea166774f9b07914e56689a36a84b193cc','opened','2026-11-27T01:55:31.134+00:00',1,'0000000000000000000000000000000000000000000000000000000000000000','704609448ddf7fc29932ad31b7301bd1e4896a8e519de0057f3610ea356e6362');
CREATE TABLE retractions (
  id INTEGER PRIMARY KEY AUTOINCREMENT, user TEXT NOT NULL REFERENCES users(name),
  judgement_id INTEGER NOT NULL UNIQUE REFERENCES judgements(id), source TEXT NOT NULL,
  created_at TEXT NOT NULL, number INTEGER NOT NULL, prev_hash TEXT NOT NULL, hash TEXT NOT NULL
);
CREATE TABLE tombstones (
  id INTEGER PRIMARY KEY AUTOINCREMENT, judgements INTEGER NOT NULL, decisions INTEGER NOT NULL,
  rows INTEGER NOT NULL, created_at TEXT NOT NULL,
  number INTEGER NOT NULL, prev_hash TEXT NOT NULL, hash TEXT NOT NULL
);
CREATE TABLE users (
  name TEXT PRIMARY KEY, created_at TEXT NOT NULL,
  number INTEGER NOT NULL, prev_hash TEXT NOT NULL, hash TEXT NOT NULL
);
INSERT INTO "users" VALUES('ann','2026-11-27T01:55:31.133+00:00',1,'0000000000000000000000000000000000000000000000000000000000000000','f2860aaf33b68e366e538ea2429f75519589340be57ef0440093e7b49e6e753e');
CREATE INDEX judgements_by_time ON judgements (user, created_at);
CREATE INDEX judgements_by_nodes ON judgements (user, nodes_json);
CREATE INDEX judgements_in_order ON judgements (user, id);
CREATE INDEX decisions_by_time ON decisions (user, created_at);
CREATE INDEX decisions_by_verdict ON decisions (user, verdict);
CREATE INDEX decisions_by_recipient ON decisions (user, json_extract(request_json, '$.recipient'));
CREATE UNIQUE INDEX ontology_versions_chain ON ontology_versions (user, number);
CREATE UNIQUE INDEX judgements_chain ON judgements (user, number);
CREATE UNIQUE INDEX retractions_chain ON retractions (user, number);
CREATE UNIQUE INDEX decisions_chain ON decisions (user, number);
CREATE UNIQUE INDEX escalations_chain ON escalations (user, number);
CREATE UNIQUE INDEX answers_chain ON answers (user, number);
CREATE TRIGGER ontology_versions_keep BEFORE DELETE ON ontology_versions BEGIN SELECT RAISE(ABORT, 'the log is append-only'); END;
CREATE TRIGGER ontology_versions_stay BEFORE UPDATE OF id, user, ontology_hash, why, created_at, number, prev_hash, hash ON ontology_versions BEGIN SELECT RAISE(ABORT, 'the log is append-only'); END;
CREATE TRIGGER judgements_keep BEFORE DELETE ON judgements BEGIN SELECT RAISE(ABORT, 'the log is append-only'); END;
CREATE TRIGGER judgements_stay BEFORE UPDATE OF id, user, nodes_json, text_sha256, value, source, channel, created_at, supersedes, note, number, prev_hash, hash ON judgements BEGIN SELECT RAISE(ABORT, 'the log is append-only'); END;
CREATE TRIGGER retractions_keep BEFORE DELETE ON retractions BEGIN SELECT RAISE(ABORT, 'the log is append-only'); END;
CREATE TRIGGER retractions_stay BEFORE UPDATE OF id, user, judgement_id, source, created_at, number, prev_hash, hash ON retractions BEGIN SELECT RAISE(ABORT, 'the log is append-only'); END;
CREATE TRIGGER decisions_keep BEFORE DELETE ON decisions BEGIN SELECT RAISE(ABORT, 'the log is append-only'); END;
CREATE TRIGGER decisions_stay BEFORE UPDATE OF id, user, request_json, verdict, rule, outcome_json, proof_json, ontology_hash, latency_us, created_at, number, prev_hash, hash ON decisions BEGIN SELECT RAISE(ABORT, 'the log is append-only'); END;
CREATE TRIGGER escalations_keep BEFORE DELETE ON escalations BEGIN SELECT RAISE(ABORT, 'the log is append-only'); END;
CREATE TRIGGER escalations_stay BEFORE UPDATE OF id, user, decision_id, question, created_at, number, prev_hash, hash ON escalations BEGIN SELECT RAISE(ABORT, 'the log is append-only'); END;
CREATE TRIGGER answers_keep BEFORE DELETE ON answers BEGIN SELECT RAISE(ABORT, 'the log is append-only'); END;
CREATE TRIGGER answers_stay BEFORE UPDATE OF id, user, decision_id, answer, verdict, generalise, meant_json, judgement_id, source, answered_at, number, prev_hash, hash ON answers BEGIN SELECT RAISE(ABORT, 'the log is append-only'); END;
CREATE TRIGGER users_keep BEFORE DELETE ON users BEGIN SELECT RAISE(ABORT, 'the log is append-only'); END;
CREATE TRIGGER users_stay BEFORE UPDATE OF name, created_at, number, prev_hash, hash ON users BEGIN SELECT RAISE(ABORT, 'the log is append-only'); END;
CREATE TRIGGER tombstones_keep BEFORE DELETE ON tombstones BEGIN SELECT RAISE(ABORT, 'the log is append-only'); END;
CREATE TRIGGER tombstones_stay BEFORE UPDATE OF id, judgements, decisions, rows, created_at, number, prev_hash, hash ON tombstones BEGIN SELECT RAISE(ABORT, 'the log is append-only'); END;
CREATE TRIGGER judgements_mark BEFORE UPDATE OF superseded_by ON judgements WHEN NEW.superseded_by IS NOT OLD.superseded_by AND NOT ((OLD.superseded_by IS NULL OR EXISTS (SELECT 1 FROM retractions WHERE judgement_id = OLD.superseded_by)) AND (NEW.superseded_by IS NULL OR EXISTS (SELECT 1 FROM judgements WHERE id = NEW.superseded_by AND id > OLD.id AND user = OLD.user))) BEGIN SELECT RAISE(ABORT, 'what is superseded stays so: the log is append-only'); END;
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('ontology_versions',1);
INSERT INTO "sqlite_sequence" VALUES('decisions',3);
INSERT INTO "sqlite_sequence" VALUES('escalations',2);
INSERT INTO "sqlite_sequence" VALUES('judgements',1);
COMMIT;
PRAGMA application_id = 1095912024;
PRAGMA user_version = 1;
