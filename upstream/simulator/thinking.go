package simulator

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"strings"

	"github.com/tidwall/gjson"
)

// A signature is, in base64: 2 bytes that are always the same, 8 of the hash
// of the credential, 8 of the hash of the system prompt, 32 of the hash of all
// of these and the thought, and filler up to an ordinary length.
const (
	signatureMagic = "\x12\xf4"
	sealEnd        = 2 + 8 + 8 + 32
	signatureSize  = 246
)

// thought is the thinking block, where the script or the request wants one.
func (x *exchange) thought(reply *Reply) (block, bool) {
	body := x.request.Body
	kind := gjson.GetBytes(body, "thinking.type").String()
	text := reply.Thinking
	if text == "" {
		if kind != "enabled" && kind != "adaptive" {
			return block{}, false
		}
		text = "The request wants an answer. A simulated one will do."
	}
	if gjson.GetBytes(body, "thinking.display").String() == "omitted" {
		text = ""
	}
	return block{
		kind: "thinking", text: text,
		signature: sign(short(x.request.Credential), short(systemText(body)), text),
		deltas:    split(text, 1+len(text)/16),
	}, true
}

func sign(credential, prefix, text string) string {
	head := signatureMagic + credential + prefix
	seal := sha256.Sum256([]byte(head + text))
	raw := append([]byte(head), seal[:]...)
	for len(raw) < signatureSize {
		seal = sha256.Sum256(seal[:])
		raw = append(raw, seal[:]...)
	}
	return base64.StdEncoding.EncodeToString(raw[:signatureSize])
}

func short(text string) string {
	sum := sha256.Sum256([]byte(text))
	return string(sum[:8])
}

// systemText is the system prompt but for its first block where that is Claude
// Code's billing line, which the API takes out.
func systemText(body []byte) string {
	system := gjson.GetBytes(body, "system")
	if system.Type == gjson.String {
		return system.String()
	}
	var out strings.Builder
	system.ForEach(func(key, b gjson.Result) bool {
		text := b.Get("text").String()
		if out.Len() > 0 || !strings.HasPrefix(text, "x-anthropic-billing-header:") {
			out.WriteString(text)
			out.WriteByte(0)
		}
		return true
	})
	return out.String()
}

// thinkingFault is the API's objection to thinking blocks; "" if none.
func (x *exchange) thinkingFault() string {
	body := x.request.Body
	fault, lastAssistant, lastIndex := "", gjson.Result{}, 0
	index := -1
	gjson.GetBytes(body, "messages").ForEach(func(_, m gjson.Result) bool {
		index++
		if m.Get("role").String() != "assistant" {
			return true
		}
		lastAssistant, lastIndex = m, index
		for i, b := range blocksOf(m) {
			if b.Get("type").String() != "thinking" {
				continue
			}
			if wrong := x.signatureFault(b); wrong != "" {
				fault = fmt.Sprintf("messages.%d.content.%d: %s", index, i, wrong)
				return false
			}
		}
		return true
	})
	if fault != "" || gjson.GetBytes(body, "thinking.type").String() != "enabled" {
		return fault
	}
	// Only a turn that goes on with a tool's result has to have its thinking.
	if lastBlock(body).Get("type").String() != "tool_result" {
		return ""
	}
	if blocks := blocksOf(lastAssistant); len(blocks) > 0 {
		switch blocks[0].Get("type").String() {
		case "thinking", "redacted_thinking":
		default:
			return fmt.Sprintf("messages.%d.content.0.type: %s", lastIndex, ThinkingExpected)
		}
	}
	return ""
}

func blocksOf(message gjson.Result) []gjson.Result {
	if content := message.Get("content"); content.IsArray() {
		return content.Array()
	}
	return nil
}

func (x *exchange) signatureFault(b gjson.Result) string {
	signature := b.Get("signature").String()
	raw, err := base64.StdEncoding.DecodeString(signature)
	if err != nil || len(raw) < sealEnd {
		return InvalidSignature
	}
	credential, prefix := string(raw[2:10]), string(raw[10:18])
	if signature != sign(credential, prefix, b.Get("thinking").String()) {
		return InvalidSignature
	}
	if credential != short(x.request.Credential) || prefix != short(systemText(x.request.Body)) {
		return BoundElsewhere
	}
	return ""
}
