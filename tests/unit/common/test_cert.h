/* SPDX-License-Identifier: ISC */
#pragma once
/* A self-signed P-256 certificate for mx.test.example, valid for a hundred years, and its key: for tests. */
static const char test_cert_pem[] =
    "-----BEGIN CERTIFICATE-----\n"
    "MIIBpjCCAU2gAwIBAgIUaaXAtyYqWc6FSrFivxjAz7/jJNIwCgYIKoZIzj0EAwIw\n"
    "GjEYMBYGA1UEAwwPbXgudGVzdC5leGFtcGxlMCAXDTI2MTEyMjIyMjUzOVoYDzIx\n"
    "MjYxMDI5MjIyNTM5WjAaMRgwFgYDVQQDDA9teC50ZXN0LmV4YW1wbGUwWTATBgcq\n"
    "hkjOPQIBBggqhkjOPQMBBwNCAATiQz62csFtGo6/H7L8r1rUQL4+ogwX+EuAkWAO\n"
    "UF7mKHDVuCYWrg5DLKsKyyNclFB2ThoCFO6pR0rhyhWYzuyKo28wbTAdBgNVHQ4E\n"
    "FgQUYbSj3bjoiFXn2wN6kVZCtnohg34wHwYDVR0jBBgwFoAUYbSj3bjoiFXn2wN6\n"
    "kVZCtnohg34wDwYDVR0TAQH/BAUwAwEB/zAaBgNVHREEEzARgg9teC50ZXN0LmV4\n"
    "YW1wbGUwCgYIKoZIzj0EAwIDRwAwRAIgeK5Xp9kje7TIbdr/cgUKBPOB/ECy3N2a\n"
    "1iZkvHHI1wUCIBJ/mcvIEgnAE+2WK1VZ2lyAk/+eq629F/5EZ8OVWjHP\n"
    "-----END CERTIFICATE-----\n";
static const char test_key_pem[] =
    "-----BEGIN PRIVATE KEY-----\n"
    "MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg1621JgoS23JLrao9\n"
    "9DItvEQUj2ww7aMKKNANxyzFNJyhRANCAATiQz62csFtGo6/H7L8r1rUQL4+ogwX\n"
    "+EuAkWAOUF7mKHDVuCYWrg5DLKsKyyNclFB2ThoCFO6pR0rhyhWYzuyK\n"
    "-----END PRIVATE KEY-----\n";
