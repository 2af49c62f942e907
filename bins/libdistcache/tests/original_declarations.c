/* Uses the library with the declarations of the original header: original_declarations TARGET */
#include <stdio.h>
#include <string.h>

typedef struct st_DC_CTX DC_CTX;
DC_CTX *DC_CTX_new(const char *target, unsigned int flags);
void DC_CTX_free(DC_CTX *ctx);
int DC_CTX_add_session(DC_CTX *ctx, const unsigned char *id_data, unsigned int id_len,
                       const unsigned char *sess_data, unsigned int sess_len,
                       unsigned long timeout_msecs);
int DC_CTX_remove_session(DC_CTX *ctx, const unsigned char *id_data, unsigned int id_len);
int DC_CTX_get_session(DC_CTX *ctx, const unsigned char *id_data, unsigned int id_len,
                       unsigned char *result_storage, unsigned int result_size,
                       unsigned int *result_used);
int DC_CTX_reget_session(DC_CTX *ctx, const unsigned char *id_data, unsigned int id_len,
                         unsigned char *result_storage, unsigned int result_size,
                         unsigned int *result_used);
int DC_CTX_has_session(DC_CTX *ctx, const unsigned char *id_data, unsigned int id_len);

int main(int count, char **arguments)
{
    const unsigned char id[2] = "i", session[] = "a session";
    unsigned char out[64];
    unsigned int used = 0;
    DC_CTX *ctx = count == 2 ? DC_CTX_new(arguments[1], 0) : NULL;

    if (ctx == NULL || DC_CTX_has_session(ctx, id, 2) != 0 ||
        DC_CTX_add_session(ctx, id, 2, session, sizeof session, 60000) != 1 ||
        DC_CTX_has_session(ctx, id, 2) != 1 ||
        DC_CTX_get_session(ctx, id, 2, NULL, 0, &used) != 1 || used != sizeof session ||
        DC_CTX_reget_session(ctx, id, 2, out, sizeof out, &used) != 1 ||
        used != sizeof session || memcmp(out, session, used) != 0 ||
        DC_CTX_remove_session(ctx, id, 2) != 1 || DC_CTX_remove_session(ctx, id, 2) != 0) {
        fprintf(stderr, "original_declarations: a call did not do what it should\n");
        return 1;
    }
    DC_CTX_free(ctx);
    return 0;
}
