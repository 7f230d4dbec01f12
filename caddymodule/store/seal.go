package store

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

const (
	// sealedPrefix begins sealed documents. Others are JSON.
	sealedPrefix    = "sub2api sealed 1\n"
	encryptionBytes = 32
)

var errNoKey = errors.New("secrets in this store are sealed, and there is no encryption_key; write the one that they were sealed with")

var ErrWrongKey = errors.New("encryption_key is not the one that the secrets in this store were sealed with")

// EncryptionKey seals documents of kinds that hold secrets with AES-256-GCM, each under
// its own name, so that one can't take another's place. nil seals nothing.
type EncryptionKey []byte

func (s EncryptionKey) aead() (cipher.AEAD, error) {
	block, err := aes.NewCipher(s)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCMWithRandomNonce(block)
}

// seal returns what to store of a document.
func (s EncryptionKey) seal(k Kind, name string, content []byte) ([]byte, error) {
	if !k.secret || s == nil {
		return content, nil
	}
	aead, err := s.aead()
	if err != nil {
		return nil, err
	}
	return aead.Seal([]byte(sealedPrefix), nil, content, []byte(k.name+"/"+name)), nil
}

// open returns a document of what was stored, sealed or not. where is its place,
// for errors.
func (s EncryptionKey) open(k Kind, name string, stored []byte, where string) ([]byte, error) {
	sealed, ok := bytes.CutPrefix(stored, []byte(sealedPrefix))
	if !ok {
		return stored, nil
	}
	if s == nil {
		return nil, errNoKey
	}
	aead, err := s.aead()
	if err != nil {
		return nil, err
	}
	content, err := aead.Open(nil, nil, sealed, []byte(k.name+"/"+name))
	if err != nil && k == checkDocuments {
		return nil, ErrWrongKey
	}
	if err != nil {
		return nil, fmt.Errorf("the sealed document %s is damaged, or %w", where, ErrWrongKey)
	}
	return content, nil
}

// isSealed reports whether what was stored is sealed.
func isSealed(stored []byte) bool { return bytes.HasPrefix(stored, []byte(sealedPrefix)) }

// isKeyError reports whether the key is to blame, and not the store.
func isKeyError(err error) bool { return errors.Is(err, ErrWrongKey) || errors.Is(err, errNoKey) }

// ParseEncryptionKey reads a resolved encryption_key. The errors do not show it.
func ParseEncryptionKey(text string) ([]byte, error) {
	if len(text) == hex.EncodedLen(encryptionBytes) {
		if key, err := hex.DecodeString(text); err == nil {
			return key, nil
		}
	}
	unpadded := strings.TrimRight(text, "=")
	for _, encoding := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
		if key, err := encoding.Strict().DecodeString(unpadded); err == nil && len(key) == encryptionBytes {
			return key, nil
		}
	}
	return nil, errors.New("is not 32 bytes in base64 or hexadecimal; make one with: openssl rand -base64 32")
}
