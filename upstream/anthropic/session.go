package anthropic

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"hash"
	"net/http"
	"strings"

	"github.com/google/uuid"
	"github.com/tidwall/gjson"
)

// ContentSession says what makes two requests one conversation where the
// client does not name it.
type ContentSession uint8

const (
	// Conversation: the key's id, the text of the system blocks, and the text of
	// the first message: the same on every turn of a conversation, and different
	// between conversations.
	Conversation ContentSession = iota
	// Cacheable: the text that the client marks for the prompt cache, so that all
	// traffic of one prompt shares an account.
	Cacheable
)

// sessionHeader is how Claude Code names the conversation.
const sessionHeader = "X-Claude-Code-Session-Id"

// maxUserID bounds the metadata.user_id that is parsed; the real ones have under
// 300 bytes.
const maxUserID = 4 << 10

// maxSession is the longest session id that is kept as it came; the real ones
// are UUIDs.
const maxSession = 128

// Session names the conversation that a request belongs to: by the client's
// header, else by metadata.user_id, else by content; "" where there is nothing
// to tell it by. byContent reports the last.
func (r *Request) Session(header http.Header, keyID string, content ContentSession) (name string, byContent bool) {
	id := header.Get(sessionHeader)
	if id == "" {
		id = sessionOfUser(r.userID)
	}
	switch {
	case id == "":
		return r.contentSession(keyID, content), true
	case len(id) > maxSession:
		sum := sha256.Sum256([]byte(id))
		return hex.EncodeToString(sum[:16]), false
	}
	return strings.Clone(id), false
}

// sessionOfUser reads both forms of metadata.user_id in use: a JSON text with a
// session_id, and a text that ends in session_<uuid>.
func sessionOfUser(userID string) string {
	if len(userID) > maxUserID {
		return ""
	}
	if strings.HasPrefix(strings.TrimLeft(userID, " \t\r\n"), "{") {
		if !gjson.Valid(userID) {
			return ""
		}
		id := gjson.Get(userID, "session_id")
		if id.Type != gjson.String {
			return ""
		}
		return id.Str
	}
	_, id, ok := cutLast(userID, "session_")
	if !ok || len(id) != 36 || uuid.Validate(id) != nil {
		return ""
	}
	return id
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

func (r *Request) contentSession(keyID string, content ContentSession) string {
	h := sha256.New()
	found := false
	switch content {
	case Conversation:
		hashText(h, keyID)
		found = hashContent(h, r.system.Raw)
		found = hashContent(h, r.firstMessage()) || found
	case Cacheable:
		found = r.hashCacheable(h)
	}
	if !found {
		return ""
	}
	return hex.EncodeToString(h.Sum(nil)[:16])
}

// firstMessage is the content of the first message, as raw JSON.
func (r *Request) firstMessage() string {
	for _, message := range items(r.messages.Raw) {
		return memberOf(message, "content")
	}
	return ""
}

// hashCacheable hashes the text of the first message that holds a block marked
// for the cache; else that of the marked system blocks; else the system's; else
// the first message's.
func (r *Request) hashCacheable(h hash.Hash) (found bool) {
	for _, message := range items(r.messages.Raw) {
		content := memberOf(message, "content")
		for _, block := range items(content) {
			if isMarked(block) {
				return hashContent(h, content)
			}
		}
	}
	for _, block := range items(r.system.Raw) {
		if isMarked(block) {
			found = hashBlock(h, block) || found
		}
	}
	return found || hashContent(h, r.system.Raw) || hashContent(h, r.firstMessage())
}

func isMarked(block string) bool {
	return memberOf(memberOf(block, "cache_control"), "type") == `"ephemeral"`
}

// hashContent hashes the text of a content value, a string or a list of
// blocks, and reports whether there was any. A string and one text block of the
// same text are the same: clients turn one into the other between turns. The
// text is hashed as it is escaped: a client escapes it alike on every turn.
func hashContent(h hash.Hash, content string) (found bool) {
	if strings.HasPrefix(content, `"`) {
		return hashText(h, content)
	}
	for _, block := range items(content) {
		found = hashBlock(h, block) || found
	}
	return found
}

func hashBlock(h hash.Hash, block string) bool { return hashText(h, memberOf(block, "text")) }

// hashText writes a text after its length, so that two texts never hash as one.
// It reports whether there was any.
func hashText(h hash.Hash, text string) bool {
	var size [8]byte
	binary.LittleEndian.PutUint64(size[:], uint64(len(text)))
	h.Write(size[:])
	h.Write(bytesOf(text))
	return len(text) > len(`""`)
}
