package fscrypt

// maxProbed bounds how many entries of a directory are looked at for one that
// can be opened.
const maxProbed = 256
