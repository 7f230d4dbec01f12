package anthropic

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"net/http"
	"strconv"
	"strings"

	"github.com/google/uuid"
	"github.com/tidwall/gjson"
	"github.com/tidwall/sjson"
)

// Identity is what an account shows of the clients behind it: one device, one
// version of one client. Its JSON is what the store keeps.
type Identity struct {
	// Account names the account; AccountUUID is the provider's id of it, "" if
	// unknown. Neither is kept.
	Account     string `json:"-"`
	AccountUUID string `json:"-"`
	// ClientID is random, 64 hexadecimal digits, as Claude Code's device_id.
	ClientID string `json:"client_id"`
	// UserAgent and Stainless (x-stainless-*) are those of the first client seen,
	// in its newest version.
	UserAgent string            `json:"user_agent"`
	Stainless map[string]string `json:"stainless"`
}

func stainless(header http.Header) map[string]string {
	out := map[string]string{}
	for name, values := range header {
		if strings.HasPrefix(name, "X-Stainless-") && len(values) > 0 {
			out[name] = values[0]
		}
	}
	return out
}

func randomHex() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails; see crypto/rand
	return hex.EncodeToString(b[:])
}

// newer reports whether a user-agent is a later version of the same client, or
// the first of all.
func newer(agent, than string) bool {
	if than == "" {
		return true
	}
	name, version := product(agent)
	oldName, oldVersion := product(than)
	if name != oldName {
		return false
	}
	for i := 0; i < len(version) || i < len(oldVersion); i++ {
		if a, b := part(version, i), part(oldVersion, i); a != b {
			return a > b
		}
	}
	return false
}

// product splits "claude-cli/2.1.330 (external)" into its name and version.
func product(agent string) (string, []string) {
	name, rest, _ := strings.Cut(agent, "/")
	version, _, _ := strings.Cut(rest, " ")
	return name, strings.Split(version, ".")
}

func part(version []string, i int) int {
	if i >= len(version) {
		return 0
	}
	n, _ := strconv.Atoi(version[i])
	return n
}

// apply puts the identity's headers in place of the client's.
func (d *Identity) apply(header http.Header) {
	maps.DeleteFunc(header, func(name string, _ []string) bool { return strings.HasPrefix(name, "X-Stainless-") })
	for name, value := range d.Stainless {
		header[name] = []string{value}
	}
	if d.UserAgent != "" {
		header["User-Agent"] = []string{d.UserAgent}
	}
	if session := header.Get(sessionHeader); session != "" {
		header.Set(sessionHeader, d.session(session))
	}
}

// userID rewrites a metadata.user_id in the form that it came in: a JSON text,
// user_…_account_…_session_…, or a word of the client's own.
func (d *Identity) userID(sent string) string {
	if strings.HasPrefix(strings.TrimLeft(sent, " \t\r\n"), "{") && len(sent) <= maxUserID && gjson.Valid(sent) {
		for name, value := range map[string]func(string) string{
			"device_id":         func(string) string { return d.ClientID },
			"account_uuid":      func(string) string { return d.AccountUUID },
			"session_id":        d.session,
			"parent_session_id": d.session,
		} {
			if old := gjson.Get(sent, name); old.Exists() {
				sent, _ = sjson.Set(sent, name, value(old.String())) // the path exists
			}
		}
		return sent
	}
	if session := sessionOfUser(sent); session != "" && strings.HasPrefix(sent, "user_") {
		return "user_" + d.ClientID + "_account_" + d.AccountUUID + "_session_" + d.session(session)
	}
	sum := sha256.Sum256([]byte(d.Account + "\x00" + sent))
	return hex.EncodeToString(sum[:])
}

// session is the UUID that stands for a client's session at this account.
func (d *Identity) session(sent string) string {
	sum := sha256.Sum256([]byte(d.Account + "\x00" + sent))
	id := uuid.UUID(sum[:16])
	id[6] = id[6]&0x0f | 0x40 // the form of a random UUID
	id[8] = id[8]&0x3f | 0x80
	return id.String()
}
